"""What a directory of sentence-transformers says counts; one that is of no use is refused in a line that says why."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from anykey.encoder import Encoder
from anykey.encoder.__main__ import main as encoder_command
from anykey.encoder.errors import CheckpointCorruptError, MissingPartError, UnsupportedOptionError
from anykey.training.__main__ import main as train
from tests.drawn_pairs import drawn_pairs, write_shard

Change = Callable[[Path], Any]
Output = pytest.CaptureFixture[str]


def removed(*names: str) -> Change:
    return lambda directory: [(directory / name).unlink() for name in names]


def written(name: str, content: Any) -> Change:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda directory: (directory / name).write_bytes(data)


def changed(name: str, **values: Any) -> Change:
    """Sets fields of a JSON file; in one that is a list, of its first entry."""

    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        (content[0] if isinstance(content, list) else content).update(values)
        (directory / name).write_text(json.dumps(content))

    return change


def half(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])


def without_layer(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, directory / "model.safetensors")


def other_sizes(directory: Path) -> None:
    sizes = json.loads((directory / "config.json").read_text())["text_config"]
    changed("config.json", text_config={**sizes, "intermediate_size": 56})(directory)


def foreign_network(directory: Path) -> None:
    changed("config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})(
        directory
    )
    (directory / "mine.py").write_text("raise SystemExit('this must not run')")


@pytest.fixture
def directory(sentence_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sentence_checkpoint, tmp_path / "qwen"))


REFUSED: dict[str, tuple[Change, str]] = {
    "no weights": (removed("model.safetensors"), "has no weights: expected model.safetensors"),
    "half the weights": (half, "is the beginning of a safetensors file, 20,000 of"),
    "a pointer": (written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "pointer of Git LFS"),
    "a missing layer": (without_layer, r"has no weights for .*layers\.1\."),
    "no vocabulary": (removed("tokenizer.json"), "cannot be loaded by sentence-transformers: .*tokenizer"),
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), "prepares no .* items, which it says it"),
    "no template": (removed("chat_template.jinja"), "does not have a chat template"),
    "no image processor": (removed("processor_config.json"), "cannot be loaded .* image processor"),
    "other sizes": (other_sizes, "cannot be loaded by sentence-transformers"),
    "no pooling": (removed("1_Pooling/config.json"), "cannot be loaded .* 'embedding_dimension'"),
    "no JSON": (written("modules.json", b"{"), r"modules\.json is not JSON"),
    "no modules": (written("modules.json", []), r"modules\.json: expected a list of modules"),
    "no class": (written("modules.json", [{"path": ""}]), "expected the class of each module under 'type'"),
    "a cross-encoder": (
        changed("config_sentence_transformers.json", model_type="CrossEncoder"),
        "is a CrossEncoder of sentence-transformers, which gives no single vector",
    ),
    "a class of its own": (
        changed("modules.json", type="custom_st.Transformer"),
        r"needs code that lies in the directory itself for the class custom_st\.Transformer .* is not run",
    ),
    "a network of its own": (foreign_network, "needs code that lies in the directory itself for its network"),
    "an adapter": (
        written("adapter_config.json", {"base_model_name_or_path": "a/b"}),
        "holds an adapter of a/b and not the whole model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_directory_of_no_use_is_refused_in_one_line(directory: Path, case: str) -> None:
    change, said = REFUSED[case]
    change(directory)
    with pytest.raises(CheckpointCorruptError, match=said) as caught:
        Encoder.load(directory, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def test_without_the_library_it_is_said_how_to_get_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingPartError, match=r"qwen needs .* sentence-transformers: pip install 'anykey\[st\]'"):
        Encoder.load(directory, device="cpu")


def test_the_fingerprint_is_of_what_vectors_depend_on(directory: Path, tmp_path: Path) -> None:
    def fingerprint() -> str:
        return Encoder.load(directory, device="cpu").fingerprint

    first = fingerprint()
    (directory / "README.md").write_text("other words")
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "files.json").write_text("{}")
    assert fingerprint() == first
    for change in (
        changed("config_sentence_transformers.json", prompts={"query": "Find.", "document": ""}),
        changed("1_Pooling/config.json", pooling_mode="mean"),
        lambda place: (place / "chat_template.jinja").write_text((place / "chat_template.jinja").read_text() + "."),
    ):
        before = fingerprint()
        change(directory)
        assert fingerprint() != before
    cached = tmp_path / "models--maker--qwen" / "snapshots" / "0123abcd"
    shutil.copytree(directory, cached)
    elsewhere = Encoder.load(cached, device="cpu")
    assert (elsewhere.fingerprint, elsewhere.name) == (fingerprint(), "maker/qwen")


def test_widths_that_a_model_declares_are_the_ones_that_it_can_have(directory: Path) -> None:
    changed("config.json", matryoshka_dims=[8, 16], dtype="bfloat16")(directory)
    changed("config_sentence_transformers.json", truncate_dim=16)(directory)
    assert [Encoder.load(directory, device="cpu", width=width).width for width in (None, 8, 32)] == [16, 8, 32]
    with pytest.raises(UnsupportedOptionError, match="model qwen was trained to be cut to 8, 16 numbers, not to 9"):
        Encoder.load(directory, device="cpu", width=9)
    encoder = Encoder.load(directory, device="cpu")
    assert (encoder.details()["widths"], encoder.half) == ([8, 16], "bf16")


def test_nothing_is_converted_or_trained_here(sentence_checkpoint: Path, tmp_path: Path, capsys: Output) -> None:
    assert encoder_command(["convert", str(sentence_checkpoint), "--output", str(tmp_path / "made")]) == 2
    assert "is a model of sentence-transformers, which every command takes as it is" in capsys.readouterr().err
    write_shard(tmp_path / "train.tar", drawn_pairs(4))
    paths = ["--data", str(tmp_path / "train.tar"), "--output", str(tmp_path / "run")]
    assert train([*paths, "--start", str(sentence_checkpoint)]) == 2
    said = capsys.readouterr().err
    assert "is a model of sentence-transformers, which trains such models itself: anykey-train does not" in said
