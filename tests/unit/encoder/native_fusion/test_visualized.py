"""VISTA's published weights load key by key and give the vectors of the original code."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError, MissingPartError
from anykey.encoder.native_fusion.architecture import build, eva_trunk
from anykey.encoder.native_fusion.encoder import FusionEncoder, PreparedItem
from anykey.encoder.native_fusion.visualized import convert_visualized, network_weights, read_visualized
from anykey.encoder.protocol import Role
from tests.visualized import FLAVOURS, Toy

TOLERANCE = 5e-6  # of a component, as measured between kernels and machines
RGB = range(4)  # those of the pictures that have no alpha channel and no palette
# What the published text encoders' configurations say (BAAI/bge-base-en-v1.5, BAAI/bge-m3).
BASE = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12}
BASE |= {"num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2}
M3 = {"model_type": "xlm-roberta", "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24}
M3 |= {"num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1}
PUBLISHED: dict[str, tuple[dict[str, Any], str, int, int, int]] = {
    "base": (BASE | {"pad_token_id": 0}, "Visualized_base_en_v1.5", 488, 512, 316),
    "m3": (M3 | {"pad_token_id": 1}, "Visualized_m3", 956, 8192, 7938),
}


@pytest.fixture(scope="module", params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """One of the two published kinds."""
    return str(request.param)


@pytest.fixture(scope="module")
def encoder(flavour: str, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> FusionEncoder:
    """The weights, loaded as they are published."""
    found = Encoder.load(toy.published(flavour, tmp_path_factory.mktemp("published") / "vista"), device="cpu")
    assert isinstance(found, FusionEncoder)
    return found


def prepared(encoder: FusionEncoder, toy: Toy, image: int | None, text: int | None) -> PreparedItem:
    """An item as the original prepares it: resized before it becomes RGB, and empty texts are texts."""
    words = "" if text is None else toy.inputs["texts"][text]
    ((tokens, _),) = encoder.architecture.tokenizer.rows([words], encoder.context_length)
    pixels = None
    if image is not None:
        with Image.open(toy.images[image]) as picture:
            pixels = image_transform_v2(encoder.architecture.preprocessing, is_train=False)(picture)
    return PreparedItem(pixels, tuple(tokens), text is not None, False, 1)


def vectors(encoder: FusionEncoder, toy: Toy, cases: Sequence[tuple[int | None, int | None]]) -> NDArray[np.float32]:
    """Of image and text numbers, in one batch."""
    return encoder.encode_prepared([prepared(encoder, toy, image, text) for image, text in cases])


def each(encoder: FusionEncoder, toy: Toy, cases: Sequence[tuple[int | None, int | None]]) -> NDArray[np.float32]:
    """The same, one at a time."""
    return np.concatenate([vectors(encoder, toy, [case]) for case in cases])


def sizes(written: str) -> tuple[int, ...]:
    """A shape as the lists of keys write it."""
    return () if written == "scalar" else tuple(map(int, written.split("x")))


def test_tokens_and_pixels_are_the_originals(encoder: FusionEncoder, flavour: str, toy: Toy) -> None:
    rows = encoder.architecture.tokenizer.rows(toy.inputs["texts"], encoder.context_length)
    assert [ids for ids, _ in rows] == toy.station(flavour, "tokens")["ids"]
    for place, fact in enumerate(toy.station(flavour, "pixels")):
        pixels = prepared(encoder, toy, place, None).image_CHW
        assert pixels is not None
        assert hashlib.sha256(pixels.numpy().astype("<f4").tobytes()).hexdigest() == fact["sha256_float32_le"]


def test_every_vector_alone_is_the_originals(encoder: FusionEncoder, flavour: str, toy: Toy) -> None:
    texts = [(None, text) for text in range(len(toy.inputs["texts"]))]
    images = [(image, None) for image in range(len(toy.images))]
    both = [(case["image"], case["text"]) for case in toy.inputs["mm_alone"]]
    for name, cases in {"text_alone": texts, "image_alone": images, "mm_alone": both}.items():
        np.testing.assert_allclose(each(encoder, toy, cases), toy.expected(flavour, name), atol=TOLERANCE, rtol=0)


def test_every_vector_in_a_padded_batch_is_the_originals(encoder: FusionEncoder, flavour: str, toy: Toy) -> None:
    texts = [(None, text) for text in range(len(toy.inputs["texts"]))]
    images = [(image, None) for image in range(len(toy.images))]
    cases = {"text_batch": texts, "image_batch": images}
    for number, batch in enumerate(toy.inputs["mm_batches"]):
        cases[f"mm_batch_{number}"] = [(case["image"], case["text"]) for case in batch]
    for name, batch in cases.items():
        found = vectors(encoder, toy, batch)
        np.testing.assert_allclose(found, toy.expected(flavour, name), atol=TOLERANCE, rtol=0)


def test_all_kinds_in_one_batch_are_as_each_alone(encoder: FusionEncoder, flavour: str, toy: Toy) -> None:
    both = [(case["image"], case["text"]) for case in toy.inputs["mm_alone"]]
    mixed = [case for place in range(6) for case in ((None, place), both[place], (place, None))]
    expected = [toy.expected(flavour, name)[:6] for name in ("text_alone", "mm_alone", "image_alone")]
    found = vectors(encoder, toy, mixed)
    np.testing.assert_allclose(found, np.stack(expected, 1).reshape(18, -1), atol=TOLERANCE, rtol=0)


def test_items_go_the_whole_way_from_files_to_the_originals_vectors(
    encoder: FusionEncoder, flavour: str, toy: Toy
) -> None:
    """Opaque pictures in RGB; an empty text is no item here, so that case is the image alone."""
    cases = [case for case in toy.inputs["mm_alone"] if case["image"] in RGB and toy.inputs["texts"][case["text"]]]
    items = [Item(toy.inputs["texts"][case["text"]], (toy.images[case["image"]],)) for case in cases]
    rows = [toy.inputs["mm_alone"].index(case) for case in cases]
    found = encoder.encode([*items, *(Item(images=(toy.images[image],)) for image in RGB)])
    expected = np.concatenate(
        [toy.expected(flavour, "mm_alone")[rows], toy.expected(flavour, "image_alone")[list(RGB)]]
    )
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_alpha_is_laid_on_white_where_the_original_drops_it(encoder: FusionEncoder, toy: Toy) -> None:
    with Image.open(toy.images[4]) as picture:
        paper = Image.new("RGBA", picture.size, "white")
        on_white = Image.alpha_composite(paper, picture).convert("RGB")
    ours, laid = (encoder.prepare(Item(images=(image,)), Role.KEY).image_CHW for image in (toy.images[4], on_white))
    dropped = prepared(encoder, toy, 4, None).image_CHW
    assert ours is not None
    assert laid is not None
    assert dropped is not None
    assert torch.equal(ours, laid)
    assert (ours - dropped).abs().max() > 0.5


def test_converted_weights_are_the_same_encoder(encoder: FusionEncoder, flavour: str, toy: Toy, tmp_path: Path) -> None:
    identity = convert_visualized(toy.weights(flavour), toy.text(flavour), tmp_path / "best")
    again = Encoder.load(tmp_path / "best", device="cpu")
    assert identity == again.fingerprint == encoder.fingerprint
    assert (again.name, again.context_length) == ("Visualized_tiny_fp16", 512)
    items = [Item("a red bicycle"), Item("a wall", (toy.images[0],))]
    assert (again.encode(items) == encoder.encode(items)).all()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_network_at_full_size_has_every_published_key(flavour: str, toy: Toy) -> None:
    config, name, num_keys, longest, longest_beside_image = PUBLISHED[flavour]
    lines = (toy.root / "full-size" / f"{name}.tsv").read_text().splitlines()
    shapes = dict(map(str.split, lines))
    assert len(shapes) == num_keys
    zero = torch.zeros(())  # without memory, whatever the shape
    weights = network_weights({key: zero.expand(sizes(shape)) for key, shape in shapes.items()}, Path(name))
    trunk = {key.removeprefix("trunk."): tensor for key, tensor in weights.items() if key.startswith("trunk.")}
    small = read_visualized(toy.weights(flavour), toy.text(flavour)).architecture
    with torch.device("meta"):
        network = build(replace(small, text_config=config, trunk=eva_trunk(trunk), context_length=longest))
    own = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items() if key != "log_scale"}
    assert own == {key: tuple(tensor.shape) for key, tensor in weights.items()}
    assert (network.max_text, network.max_text_beside_image) == (longest, longest_beside_image)


def test_weights_saved_again_as_safetensors_are_found_too(toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(toy.text("base"), tmp_path / "mine")
    tensors = torch.load(toy.weights("base"), weights_only=True)
    tensors["bge_embeddings.position_ids"] = torch.arange(512)[None]  # as earlier versions of transformers had it
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "mine" / "vista.safetensors")
    toy.published("base", tmp_path / "published")
    assert Encoder.load(tmp_path / "mine").fingerprint == Encoder.load(tmp_path / "published").fingerprint


class TestRefused:
    """What is no such file, or lies beside the wrong text encoder."""

    @pytest.fixture
    def directory(self, toy: Toy, tmp_path: Path) -> Path:
        """One that loads."""
        return toy.published("base", tmp_path / "vista")

    def change(self, directory: Path, **tensors: torch.Tensor | None) -> None:
        """Writes the weights anew with some of them changed, or left out."""
        path = directory / "Visualized_tiny_fp16.pth"
        content = {**torch.load(path, weights_only=True), **tensors}
        torch.save({name: tensor for name, tensor in content.items() if tensor is not None}, path)

    def test_a_directory_without_the_text_encoders_configuration(self, directory: Path) -> None:
        (directory / "config.json").unlink()
        with pytest.raises(CheckpointNotFoundError, match=r"needs config\.json and tokenizer of its text encoder"):
            Encoder.load(directory)

    def test_a_directory_without_its_tokenizer(self, directory: Path) -> None:
        for path in directory.iterdir():
            if path.name not in ("config.json", "Visualized_tiny_fp16.pth"):
                path.unlink()
        with pytest.raises(MissingPartError, match="needs the tokenizer of its text encoder") as caught:
            Encoder.load(directory)
        assert "\n" not in str(caught.value)

    def test_the_other_flavours_configuration(self, directory: Path, toy: Toy) -> None:
        shutil.copytree(toy.text("m3"), directory, dirs_exist_ok=True)
        with pytest.raises(CheckpointCorruptError, match=r"does not fit the configuration beside it: size mismatch"):
            Encoder.load(directory)

    def test_the_other_flavours_tokenizer(self, directory: Path, toy: Toy) -> None:
        config = (directory / "config.json").read_text().replace("1500", "1300")
        (directory / "config.json").write_text(config)
        with pytest.raises(CheckpointCorruptError, match=r"the tokenizer has 1500 ids, the text encoder only 1300"):
            Encoder.load(directory)

    def test_a_text_encoder_of_another_kind(self, directory: Path) -> None:
        (directory / "config.json").write_text('{"model_type": "gpt2", "max_position_embeddings": 512}')
        with pytest.raises(CheckpointCorruptError, match=r"needs a BERT-like text encoder .* model_type 'gpt2'"):
            Encoder.load(directory)

    def test_a_missing_key(self, directory: Path) -> None:
        self.change(directory, **{"bge_encoder.layer.1.output.dense.bias": None})
        with pytest.raises(CheckpointCorruptError, match=r"text\.encoder\.layer\.1\.output\.dense\.bias"):
            Encoder.load(directory)

    def test_a_strange_key(self, directory: Path) -> None:
        self.change(directory, surprise=torch.zeros(1))
        with pytest.raises(CheckpointCorruptError, match="is no file of VISTA's: it holds surprise"):
            Encoder.load(directory)

    def test_blocks_with_tables_of_their_own(self, directory: Path) -> None:
        self.change(directory, **{"model_visual.visual.blocks.1.attn.rope.freqs_cos": torch.zeros(16, 16)})
        with pytest.raises(CheckpointCorruptError, match="differs from the table that all blocks share"):
            Encoder.load(directory)

    def test_a_file_without_the_trunk(self, directory: Path) -> None:
        path = directory / "Visualized_tiny_fp16.pth"
        content = torch.load(path, weights_only=True)
        torch.save({name: t for name, t in content.items() if not name.startswith("model_visual")}, path)
        with pytest.raises(CheckpointCorruptError, match="holds no EVA trunk as VISTA has it"):
            Encoder.load(directory)

    def test_a_file_that_is_cut_short(self, directory: Path, toy: Toy) -> None:
        path = directory / "Visualized_tiny_fp16.pth"
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(CheckpointCorruptError, match="is damaged or no weights file") as caught:
            convert_visualized(path, directory, directory / "best")
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointCorruptError, match="it is the beginning of a file of torch"):
            Encoder.load(directory)
