"""Native fusion is trained as one family among others: same vectors as the encoder's, locks, parts, and starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError, EncoderError, MissingPartError
from anykey.encoder.fusion import Fusion
from anykey.encoder.native_fusion.visualized import convert_visualized
from anykey.sources.pairs.pair import Pair
from anykey.training.batches import leave_out_words
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.native_fusion import NativeFusion, read_start
from anykey.training.families.opening import holds_checkpoint, load_family, open_family
from anykey.training.family import Family, Items
from anykey.training.gradient_cache import backward
from anykey.training.interpolate import interpolate_checkpoints
from anykey.training.interpolate_settings import InterpolateSettings
from tests.distributed_step import check_gradients
from tests.drawn_pairs import drawn_pairs
from tests.fusion_models import write_architecture, write_text_model
from tests.training_runs import CPU, make_settings, make_table
from tests.visualized import FLAVOURS, Toy

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(9)]
NONE = torch.full((9,), -1)
OWN = torch.arange(9)


@pytest.fixture(scope="module")
def family(fusion_checkpoint: Path) -> Family:
    """A start, not to be changed."""
    return load_family(fusion_checkpoint, CPU)


def items_of(family: Family) -> Items:
    """Nine pairs, each as an image, a text and both, one pair after the other as in a batch."""
    table = make_table(PAIRS, family=family)
    assert table.pixels_ICHW is not None
    row_image_R, row_text_R = (torch.stack(rows, 1).flatten() for rows in ((OWN, NONE, OWN), (NONE, OWN, OWN)))
    return Items(table.pixels_ICHW, table.tokens_ST[::2].long(), row_image_R, row_text_R)


def settings_of(folder: Path, **changes: Any) -> Any:
    return make_settings(folder / "train.tar", folder / "run", **changes)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_training_sees_the_vectors_that_the_encoder_gives(flavour: str, toy: Toy, tmp_path: Path) -> None:
    convert_visualized(toy.weights(flavour), toy.text(flavour), tmp_path / "start")
    family, encoder = load_family(tmp_path / "start", CPU), Encoder.load(tmp_path / "start", device="cpu")
    family.eval()
    found = family.vectors(items_of(family))
    images = [Item(images=(pair.image,)) for pair in PAIRS]
    texts = [Item(pair.captions[0]) for pair in PAIRS]
    both = [Item(pair.captions[0], (pair.image,)) for pair in PAIRS]
    for vectors_RD, items in zip(found, (images, texts, both), strict=True):
        np.testing.assert_allclose(vectors_RD.numpy(), encoder.encode(items), atol=1e-6)


def test_parts_are_the_whole_and_the_trunk_runs_once_an_image(family: Family) -> None:
    family.eval()
    items = items_of(family)
    (whole_RD,) = family.features(items)
    seen: list[int] = []
    hook = family.trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for num_parts in (1, 2, 4, 9, 12):
        seen.clear()
        parts = family.split(items, num_parts)
        joined_RD = torch.cat([family.features(part)[0] for part in parts])
        torch.testing.assert_close(joined_RD, whole_RD, atol=1e-6, rtol=0)
        assert (len(parts), sum(seen)) == (num_parts, 9)
    hook.remove()


def test_rows_that_share_an_image_stay_together_wherever_they_are(family: Family) -> None:
    items = items_of(family)
    order = torch.tensor([0, 3, 1, 2, 5, 4, *range(6, 27)])  # the first two pairs are mixed up
    parts = family.split(items.part(order), 8)
    assert sum(len(part.images_I) for part in parts) == 9
    assert len(parts[0].row_image_R) == 6


def test_the_gradient_cache_gives_the_gradient_of_the_whole_batch(fusion_checkpoint: Path) -> None:
    gradients = []
    for num_parts in (1, 4):
        family = load_family(fusion_checkpoint, CPU)
        family.eval()  # no dropout, of which parts draw other numbers
        items = items_of(family)

        def loss_of(features: tuple[Tensor, ...], family: Family = family, items: Items = items) -> Tensor:
            rows = torch.cat(family.rows(features, items))
            return (rows @ rows.T * 10).logsumexp(1).mean()

        backward(family, items, num_parts, 0, loss_of)
        gradients.append({name: weight.grad for name, weight in family.model.named_parameters()})
    whole, parts = ({name: grad for name, grad in found.items() if grad is not None} for found in gradients)
    assert "log_scale" not in whole
    check_gradients(parts, whole, "four parts")


def test_cached_trunk_tokens_stand_for_pixels(family: Family) -> None:
    family.eval()
    items = items_of(family)
    output_INF = family.trunk_features(items.images_I)
    assert (output_INF.shape, output_INF.dtype) == ((9, 16, 64), torch.float32)
    family.trunk.register_forward_hook(lambda *passed: pytest.fail("the trunk ran again"))
    found = family.vectors(Items(output_INF, items.tokens_ST, items.row_image_R, items.row_text_R))
    family.trunk._forward_hooks.clear()
    for cached_RD, plain_RD in zip(found, family.vectors(items), strict=True):
        torch.testing.assert_close(cached_RD, plain_RD, atol=1e-6, rtol=0)


def test_text_locked_means_position_table_too_and_the_projection_stays_free(fusion_checkpoint: Path) -> None:
    """VISTA's second stage: trunk and projection train, the text encoder does not."""
    family = load_family(fusion_checkpoint, CPU)
    family.lock("text")
    free = {name.split(".")[0] for name, weight in family.model.named_parameters() if weight.requires_grad}
    assert free == {"trunk", "projection", "log_scale"}
    family.lock("image", unlocked_groups=1)
    free = {name for name, weight in family.model.named_parameters() if weight.requires_grad}
    assert {name for name in free if name.startswith("trunk.")} == {
        name for name, _ in family.model.named_parameters() if name.startswith("trunk.blocks.1.")
    }
    assert {"projection.weight", "projection.bias"} <= free


def test_every_weight_is_in_one_group(family: Family) -> None:
    groups = [*family.layers.image, *family.layers.text]
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in family.model.named_parameters() if name != "log_scale")
    assert len(family.layers.text) == 3  # embeddings and two layers
    assert len(list(family.blocks())) == 4


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_words_are_left_out_between_start_and_end(flavour: str, toy: Toy, tmp_path: Path) -> None:
    family = load_family(toy.published(flavour, tmp_path / "vista"), CPU)
    tokens_ST, is_cut_S = family.tokenize(["a red circle", "one " * 300])
    assert tokens_ST.shape == (2, 128)
    assert is_cut_S == [False, True]
    ends_S = family.text_ends(tokens_ST)
    end = tokens_ST[1, -1]
    assert ends_S[1] == 127
    assert not tokens_ST[0, ends_S[0] + 1 :].any()
    fewer_ST = leave_out_words(tokens_ST, ends_S, 0.5, torch.Generator().manual_seed(0))
    for row, ends in zip(fewer_ST, family.text_ends(fewer_ST), strict=True):
        assert row[0] == tokens_ST[0, 0]
        assert row[ends] == end
    assert family.text_ends(fewer_ST)[1] < 100


def test_a_point_between_two_checkpoints_is_one_too(fusion_checkpoint: Path, tmp_path: Path) -> None:
    start = load_family(fusion_checkpoint, CPU)
    tuned = {name: weight + 0.01 for name, weight in start.weights().items()}
    start.save(tmp_path / "tuned", tuned, {})
    settings = InterpolateSettings(
        start=str(fusion_checkpoint), tuned=str(tmp_path / "tuned"), share=0.5, output=tmp_path / "half"
    )
    identity = interpolate_checkpoints(settings)
    half = load_family(tmp_path / "half", CPU)
    assert half.description.fingerprint == identity
    for name, weight in start.weights().items():
        torch.testing.assert_close(half.weights()[name], weight + 0.005, atol=1e-5, rtol=0)


class TestStart:
    """Which model a run opens."""

    @pytest.fixture
    def folder(self, toy: Toy, tmp_path: Path) -> Path:
        """A text encoder and an architecture that names it."""
        write_text_model(toy, tmp_path / "text")
        write_architecture(tmp_path / "mine.json")
        return tmp_path

    def opened(self, folder: Path, **changes: Any) -> Family:
        return open_family(settings_of(folder, **{"family": "fusion", **changes}), CPU, None)

    def test_a_new_model_has_the_text_encoders_weights_and_a_seeded_rest(self, folder: Path) -> None:
        first, again, other = (
            self.opened(folder, architecture=str(folder / "mine.json"), seed=seed) for seed in (0, 0, 1)
        )
        expected = load_file(folder / "text" / "model.safetensors")
        weights = first.weights()
        assert torch.equal(
            weights["text.embeddings.word_embeddings.weight"], expected["embeddings.word_embeddings.weight"]
        )
        assert all(torch.equal(weight, again.weights()[name]) for name, weight in weights.items())
        assert not torch.equal(weights["projection.weight"], other.weights()["projection.weight"])
        assert first.log_scale.exp().item() == pytest.approx(50, rel=1e-5)
        assert (first.description.name, first.description.fusion) == ("mine", "native")
        assert first.description.provenance["text_model"] == str(folder / "text")

    def test_a_text_encoder_can_be_named_beside_the_architecture(self, folder: Path, toy: Toy) -> None:
        write_text_model(toy, folder / "other", prefix="bert.")
        plain, named = (
            self.opened(folder, architecture=str(folder / "mine.json"), text_model=text)
            for text in (None, folder / "other")
        )
        assert all(torch.equal(weight, named.weights()[name]) for name, weight in plain.weights().items())

    def test_temperature_and_length_are_settings(self, folder: Path) -> None:
        family = self.opened(
            folder, architecture=str(folder / "mine.json"), temperature=0.05, max_text_tokens=9, image_mean=(0, 0, 0)
        )
        assert family.log_scale.exp().item() == pytest.approx(20, rel=1e-5)
        assert family.tokenize(["a red circle"])[0].shape == (1, 9)
        assert family.description.settings["image_mean"] == [0, 0, 0]

    def test_image_weights_go_into_the_trunk(self, folder: Path) -> None:
        family = self.opened(folder, architecture=str(folder / "mine.json"))
        trunk = {name: torch.ones(tensor.shape) for name, tensor in family.trunk.model.state_dict().items()}
        save_file(trunk, folder / "trunk.safetensors")
        options = {"architecture": str(folder / "mine.json"), "image_weights": folder / "trunk.safetensors"}
        found = self.opened(folder, **options)
        assert all((weight == 1).all() for weight in found.trunk.state_dict().values())
        save_file({"other": torch.ones(1)}, folder / "trunk.safetensors")
        with pytest.raises(CheckpointCorruptError, match="does not fit the image trunk of mine"):
            self.opened(folder, **options)

    def test_a_checkpoint_and_published_weights_are_starts(
        self, fusion_checkpoint: Path, toy: Toy, folder: Path
    ) -> None:
        published = toy.published("base", folder / "vista")
        for start in (fusion_checkpoint, published):
            family = open_family(settings_of(folder, start=str(start)), CPU, None)
            assert isinstance(family, NativeFusion)
            assert family.description.provenance["start"] == str(start)
            assert family.description.fingerprint == read_start(fusion_checkpoint).fingerprint
        assert holds_checkpoint(fusion_checkpoint)
        assert not holds_checkpoint(published), "weights of somebody else's are not to be replaced"

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"fusion": "raw"}, InvalidRecipeError, "--fusion raw is score fusion: family fusion fuses by itself"),
            ({"architecture": "ViT-B-32"}, CheckpointNotFoundError, "'ViT-B-32' is no architecture with native fusion"),
            ({"architecture": "absent.json"}, CheckpointNotFoundError, "'absent.json' is no architecture with native"),
            ({"family": "towers", "text_model": "text"}, InvalidRecipeError, "--text-model is of --family fusion"),
            ({"family": None, "max_text_tokens": 9}, InvalidRecipeError, "--max-text-tokens is of --family fusion"),
            ({"text_model": "nowhere"}, CheckpointCorruptError, "nowhere has no config.json"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, folder: Path, changes: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            self.opened(folder, **changes)

    def test_a_start_of_the_other_family_is_refused(
        self, fusion_checkpoint: Path, tiny_checkpoint: Path, folder: Path
    ) -> None:
        for start, asked, found in ((fusion_checkpoint, "towers", "fusion"), (tiny_checkpoint, "fusion", "towers")):
            with pytest.raises(InvalidRecipeError, match=f"is of family {found}, --family says {asked}"):
                self.opened(folder, start=str(start), family=asked)
        with pytest.raises(InvalidRecipeError, match="takes no score fusion"):
            load_family(fusion_checkpoint, CPU, Fusion.RAW)

    @pytest.mark.parametrize(
        ("config", "error", "message"),
        [
            (
                {"text_model": None},
                CheckpointCorruptError,
                "names no text encoder: give its directory with",
            ),
            (
                {"text_model": {"package": "no-such-thing", "module": "no_such_thing", "folder": "model"}},
                MissingPartError,
                "takes its text encoder from the package no-such-thing: pip install --no-deps no-such-thing",
            ),
            ({"trunk": {"kind": "timm"}}, CheckpointCorruptError, "a value is missing or wrong: 'image_size'"),
            ({"padding": "odd"}, CheckpointCorruptError, "a value is missing or wrong: 'odd'"),
            ({"preprocessing": {"mean": "dark"}}, CheckpointCorruptError, "preprocessing key 'mean'"),
            ({"context_length": 9_999}, CheckpointCorruptError, "context_length 9999 is not within 3 and the 512"),
        ],
    )
    def test_an_architecture_that_is_none_is_refused_in_one_line(
        self, folder: Path, config: dict[str, Any], error: type[EncoderError], message: str
    ) -> None:
        write_architecture(folder / "mine.json", **config)
        with pytest.raises(error, match=message) as caught:
            self.opened(folder, architecture=str(folder / "mine.json"))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder.layer.0.output.dense.bias": None}, r"does not fit config\.json beside it: Missing key"),
            ({"embeddings.word_embeddings.weight": None}, "holds no weights of a BERT-like text encoder"),
        ],
    )
    def test_weights_of_another_text_encoder_are_refused(
        self, folder: Path, change: dict[str, Tensor | None], message: str
    ) -> None:
        path = folder / "text" / "model.safetensors"
        weights = {**load_file(path), **change}
        save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
        with pytest.raises(CheckpointCorruptError, match=message):
            self.opened(folder, architecture=str(folder / "mine.json"))
        path.unlink()
        with pytest.raises(
            CheckpointNotFoundError, match=r"has no weights of a text encoder: expected model\.safetensors"
        ):
            self.opened(folder, architecture=str(folder / "mine.json"))
