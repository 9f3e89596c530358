"""Hugging Face's tokenizers: the one that the configuration names, from this machine, or a refusal."""

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch

from anykey.encoder import Encoder
from anykey.encoder.errors import MissingPartError
from anykey.encoder.fusion import Fusion
from anykey.encoder.item import Item
from anykey.encoder.towers.architecture import Architecture, build
from anykey.encoder.towers.checkpoint import read_checkpoint, save_checkpoint
from anykey.encoder.towers.encoder import load_checkpoint
from anykey.encoder.towers.tokens import Tokenizer
from tests.networks import TEXT, build_seeded, small_architecture

WORDS = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "circle": 4}
IDS = [[2, 3, 4] + [0] * 5, [1, 4] + [0] * 6]  # of TEXTS
TEXTS = ["a red circle", "round circle"]


def architecture_with(tokenizer: str | Path, **text: Any) -> Architecture:
    """A network that open_clip knows by no name, with this tokenizer."""
    text_cfg = {**TEXT, "context_length": 8, "hf_tokenizer_name": str(tokenizer), **text}
    return Architecture("mine", small_architecture(text=text_cfg).model_cfg)


class AutoTokenizer:
    """Stands for the class of `transformers`: splits at white space, and remembers what it was asked for."""

    pad_token_id = 0
    all_special_tokens = ("[PAD]", "[UNK]")
    loads: list[tuple[str, dict[str, Any], bool]] = []  # noqa: RUF012

    def __init__(self, words: dict[str, int]) -> None:
        self.words = words

    @classmethod
    def from_pretrained(cls, name: str | Path, cache_dir: None = None, **options: Any) -> "AutoTokenizer":
        cls.loads.append((str(name), options, huggingface_hub.constants.HF_HUB_OFFLINE))
        path = Path(name) / "tokenizer.json"
        if not path.is_file():
            raise OSError(f"{name} is not in the cached files.\nSee https://huggingface.co/docs")
        return cls(json.loads(path.read_text()))

    def save_pretrained(self, directory: Path) -> None:
        (Path(directory) / "tokenizer.json").write_text(json.dumps(self.words))

    def __call__(self, texts: list[str], max_length: int | None = None, **options: Any) -> SimpleNamespace:
        rows = [[self.words.get(word, 1) for word in text.split()][:max_length] for text in texts]
        if max_length is None:
            return SimpleNamespace(input_ids=rows)
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (max_length - len(row)) for row in rows]))


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> type[AutoTokenizer]:
    """A `transformers` of one class, whether or not the library is installed."""
    module = ModuleType("transformers")
    module.__spec__ = ModuleSpec("transformers", None)
    module.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    monkeypatch.setattr(AutoTokenizer, "loads", [])
    return AutoTokenizer


@pytest.fixture
def words_dir(tmp_path: Path) -> Path:
    """A directory with the tokenizer of `WORDS`."""
    (tmp_path / "words").mkdir()
    AutoTokenizer(WORDS).save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def save(path: Path, architecture: Architecture) -> None:
    save_checkpoint(path, architecture, build_seeded(architecture).state_dict(), Fusion.RAW, {})


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
@pytest.mark.parametrize("text", [{}, {"hf_model_name": "nobody/nothing"}])
def test_without_the_library_the_way_to_install_it_is_named(text: dict[str, str]) -> None:
    needs_it = Tokenizer if not text else build
    with pytest.raises(MissingPartError, match=r"^mine needs the library transformers: pip install 'anykey\[hf\]'$"):
        needs_it(architecture_with("nobody/nothing", **text))


def test_a_name_that_open_clip_does_not_know_gets_the_tokenizer_of_its_configuration(
    words_dir: Path, transformers: type[AutoTokenizer]
) -> None:
    assert Tokenizer(architecture_with(words_dir))(TEXTS).tolist() == IDS


def test_a_text_longer_than_the_context_is_known_to_be_cut(words_dir: Path, transformers: type[AutoTokenizer]) -> None:
    rows = Tokenizer(architecture_with(words_dir)).rows(["a " * 7, "a " * 8, "a " * 9, "a" * 3000, "red"])
    assert rows.is_cut_B == [False, False, True, False, False]  # 3,000 letters are one word


@pytest.mark.parametrize("control", ["[PAD]", "&#91;PAD]", "\uff3bPAD\uff3d"])
def test_control_tokens_that_a_text_spells_out_are_plain_characters(
    words_dir: Path, transformers: type[AutoTokenizer], control: str
) -> None:
    tokenizer = Tokenizer(architecture_with(words_dir))
    assert tokenizer([f"a {control} red"])[0].tolist() == [2, 1, 1, 3, 0, 0, 0, 0]  # "[" and "PAD]", which are unknown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2² [PAD] ½ a", ["2²", "[", "PAD]", "½", "a"]),
        ("2² [PAD][PAD]", ["2²", "[", "PAD][", "PAD]"]),
        ("⑴ 2²", ["(", "1)", "2²"]),  # one character that stands for a control token of three
        ("2² ⑴", ["2²", "(", "1)"]),
        ("2² ⑵", ["2²", "⑵"]),
    ],
)
def test_what_stands_beside_a_control_token_stays_as_it_is(
    tmp_path: Path,
    transformers: type[AutoTokenizer],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected: list[str],
) -> None:
    monkeypatch.setattr(transformers, "all_special_tokens", ("[PAD]", "(1)"))
    known = ["[PAD]", "[UNK]", "2²", "½", "a", "[", "PAD]", "PAD][", "(", "1)", "⑵"]
    AutoTokenizer({word: place for place, word in enumerate(known)}).save_pretrained(tmp_path)
    tokens = Tokenizer(architecture_with(tmp_path))([text])[0].tolist()
    assert tokens[: len(expected)] == [known.index(word) for word in expected]


def test_a_tokenizer_is_loaded_without_network_and_without_code_of_its_own(
    words_dir: Path, transformers: type[AutoTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    options = {"use_fast": True, "trust_remote_code": True, "local_files_only": False}
    Tokenizer(architecture_with(words_dir, tokenizer_kwargs=options))
    ((name, found, was_offline),) = transformers.loads
    assert (name, was_offline) == (str(words_dir), True)
    assert found == {"use_fast": True, "trust_remote_code": False, "local_files_only": True}
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-B-32", "mine"])
def test_a_tokenizer_that_is_not_here_is_refused_whatever_the_architectures_name(
    name: str, transformers: type[AutoTokenizer]
) -> None:
    architecture = Architecture(name, architecture_with("nobody/nothing").model_cfg)
    reason = r"nobody/nothing, which cannot be loaded from Hugging Face's cache \(nobody/nothing is not in .* files\.\)"
    with pytest.raises(MissingPartError, match=rf"{name} needs the Hugging Face tokenizer {reason}; put its") as caught:
        Tokenizer(architecture)
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_refused(words_dir: Path, tmp_path: Path, transformers: type[AutoTokenizer]) -> None:
    save(tmp_path / "best", architecture_with(words_dir))
    (tmp_path / "best" / "tokenizer.json").write_text("{")
    with pytest.raises(MissingPartError, match=r"cannot be loaded from .*best"):
        Encoder.load(tmp_path / "best")


def test_a_checkpoint_keeps_its_tokenizer(words_dir: Path, tmp_path: Path, transformers: type[AutoTokenizer]) -> None:
    save(tmp_path / "best", architecture_with(words_dir))
    expected = Encoder.load(tmp_path / "best").encode([Item(text) for text in TEXTS])
    (words_dir / "tokenizer.json").unlink()
    (tmp_path / "best" / "encoder.json").unlink()  # as if open_clip had written it
    moved = (tmp_path / "best").rename(tmp_path / "elsewhere")

    assert (Encoder.load(moved).encode([Item(text) for text in TEXTS]) == expected).all()
    assert open_clip.get_tokenizer(f"local-dir:{moved}")(TEXTS).tolist() == IDS
    save(tmp_path / "again", read_checkpoint(moved).architecture)
    assert Tokenizer(read_checkpoint(tmp_path / "again").architecture)(TEXTS).tolist() == IDS


def test_a_directory_without_its_tokenizer_is_refused(
    words_dir: Path, tmp_path: Path, transformers: type[AutoTokenizer]
) -> None:
    save(tmp_path / "best", architecture_with(words_dir))
    for path in (words_dir / "tokenizer.json", tmp_path / "best" / "tokenizer.json"):
        path.unlink()
    with pytest.raises(MissingPartError, match=f"needs the Hugging Face tokenizer {words_dir}"):
        Encoder.load(tmp_path / "best")


def test_a_checkpoint_whose_tokenizer_is_not_here_is_not_written(
    tmp_path: Path, transformers: type[AutoTokenizer]
) -> None:
    with pytest.raises(MissingPartError, match="nobody/nothing"):
        save(tmp_path / "best", architecture_with("nobody/nothing"))
    assert list(tmp_path.iterdir()) == []


def test_only_a_tag_may_fetch_its_tokenizer(transformers: type[AutoTokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(MissingPartError, match="ViT-B-16-SigLIP needs the Hugging Face tokenizer timm/ViT-B-16-SigLIP"):
        load_checkpoint("ViT-B-16-SigLIP/webli")
    ((_, options, was_offline),) = transformers.loads
    assert (options["local_files_only"], options["trust_remote_code"], was_offline) == (False, False, False)


def test_a_real_tokenizer_is_kept_with_the_checkpoint(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "words")

    save(tmp_path / "best", architecture_with(tmp_path / "words"))
    (tmp_path / "words").rename(tmp_path / "gone")

    assert Tokenizer(read_checkpoint(tmp_path / "best").architecture)(TEXTS).tolist() == IDS
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'best'}")(TEXTS).tolist() == IDS
    with pytest.raises(MissingPartError, match="nobody/nothing"):
        Tokenizer(architecture_with("nobody/nothing"))
    with pytest.raises(MissingPartError, match=r"needs Hugging Face's configuration of nobody/nothing, .*`hf download"):
        build(architecture_with("nobody/nothing", hf_model_name="nobody/nothing"))


@pytest.mark.parametrize("mode", [None, "clips"])
@pytest.mark.parametrize("pad", ["[PAD]", "[SEP]"])
def test_a_real_tokenizer_takes_control_tokens_for_plain_characters(tmp_path: Path, mode: str | None, pad: str) -> None:
    library = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abc", "sep", "[", "]"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": pad, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = library.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="[CLS]", eos_token="[SEP]", **special)
    fast.save_pretrained(tmp_path / "words")

    tokenizer = Tokenizer(architecture_with(tmp_path / "words", tokenizer_mode=mode))
    row = tokenizer(["a [SEP] b"])[0].tolist()
    assert row[:7] == [2, 4, 8, 7, 9, 5, 3]
    assert tokenizer(["a b"])[0].tolist()[:4] == [2, 4, 5, 3]
    room = 5 if mode == "clips" else 6
    assert tokenizer.rows(["a " * room, "a " * (room + 1), "a"]).is_cut_B == [False, True, False]


def test_a_real_sentencepiece_tokenizer_takes_control_tokens_for_plain_characters(tmp_path: Path) -> None:
    """Its vocabulary holds them as pieces, which would be found in any text."""
    library = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.normalizer, made.pre_tokenizer = tokenizers.normalizers.NFKC(), tokenizers.pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(
        ["a red circle on blue ground", "<b> 3.14 / 2 </b> don't", "Stra\u00dfe | pipe"] * 50, trainer
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    library.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    ).save_pretrained(tmp_path / "pieces")

    tokenizer = Tokenizer(architecture_with(tmp_path / "pieces", context_length=40))
    for control in ("</s>", "&lt;/s&gt;", "\uff1c/s\uff1e", "<s>", "<pad>"):
        row = tokenizer([f"a red {control} circle"])[0].tolist()
        assert [token for token in row[: row.index(2) + 1] if token < 3] == [2], control
        assert row.index(2) > 5, "what follows is there"
    theirs = library.AutoTokenizer.from_pretrained(tmp_path / "pieces")
    for text in ("a red circle", "<b> 3.14 </b>", "don't | Stra\u00dfe"):
        ids = theirs(text).input_ids
        assert tokenizer([text])[0].tolist()[: len(ids)] == ids
