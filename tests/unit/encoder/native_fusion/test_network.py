"""The network reads what it should, runs the trunk once an image, and takes any trunk of timm."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.native_fusion.architecture import build_text, build_trunk
from anykey.encoder.native_fusion.checkpoint import read_checkpoint
from anykey.encoder.native_fusion.network import TEXT_MODELS, FusionNetwork, Rows
from anykey.encoder.padding import Padding

NO_IMAGES = torch.empty(0)
SYMMETRIC = Padding.SYMMETRIC


@pytest.fixture
def network(fusion_checkpoint: Path) -> FusionNetwork:
    """A network of random weights, whose trunk makes 16 patches of 32 x 32 pixels."""
    return read_checkpoint(fusion_checkpoint).network.eval()


def pixels(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rows(image_R: list[int], *texts: list[int]) -> Rows:
    """Texts padded with an id that means something, and the image of each."""
    length_R = torch.tensor([len(text) for text in texts])
    tokens_RT = torch.full((len(texts), int(length_R.max())), 700)
    for place, text in enumerate(texts):
        tokens_RT[place, : len(text)] = torch.tensor(text)
    return Rows(tokens_RT, length_R, torch.tensor(image_R))


def test_the_trunk_runs_once_over_each_image_whatever_reads_it(network: FusionNetwork) -> None:
    seen: list[int] = []
    network.trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    texts = ([101, 102], [101, 150, 102], [101, 102], [101, 160, 150, 102], [101, 150, 102])
    found = network(pixels(2), rows([0, 0, 1, 1, -1], *texts))
    assert (seen, found.shape) == ([2], (5, 64))


def test_no_image_leaves_the_trunk_alone(network: FusionNetwork) -> None:
    network.trunk.register_forward_hook(lambda *passed: pytest.fail("the trunk ran"))
    assert network(NO_IMAGES, rows([-1], [101, 150, 102])).shape == (1, 64)


def test_the_trunks_output_stands_for_the_images(network: FusionNetwork) -> None:
    some = rows([1, 0], [101, 102], [101, 150, 102])
    expected = network(pixels(2), some)
    found = network(network(pixels(2), None), some, are_trunks=True)
    assert torch.equal(found, expected)


def test_what_stands_behind_a_text_counts_nothing(network: FusionNetwork) -> None:
    some = rows([0, 1, -1], [101, 102], [101, 150, 151, 152, 102], [101, 150, 102])
    tokens_RT, length_R, image_R = some
    found = network(pixels(2), some)
    other = some._replace(tokens_RT=torch.where(tokens_RT == 700, 900, tokens_RT))
    torch.testing.assert_close(network(pixels(2), other), found)
    for row, image in enumerate(image_R.tolist()):
        one_1T = tokens_RT[row, : length_R[row]][None]
        images = pixels(2)[image][None] if image >= 0 else NO_IMAGES
        alone = network(images, Rows(one_1T, length_R[row][None], torch.tensor([min(image, 0)])))
        torch.testing.assert_close(alone[0], found[row], atol=1e-6, rtol=0)


def test_gradients_reach_every_weight_but_the_temperature(network: FusionNetwork) -> None:
    network.train()
    network(pixels(1), rows([0, -1], [101, 150, 102], [101, 160, 102]))[:, :5].sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == ["log_scale"]


def test_recomputed_blocks_give_the_same_gradient(fusion_checkpoint: Path) -> None:
    gradients, passes = [], []
    for recomputes in (False, True):
        network = read_checkpoint(fusion_checkpoint).network.train()
        if recomputes:
            network.recompute_activations()
        seen: list[str] = []
        for part in (network.trunk.blocks[0].norm1, network.text.encoder.layer[0].intermediate):
            part.register_forward_hook(lambda module, *passed, seen=seen: seen.append(type(module).__name__))
        torch.manual_seed(0)  # of the dropout, which is the same when it is computed again
        network(pixels(1), rows([0], [101, 150, 102]))[:, :5].sum().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters() if weight.grad is not None])
        passes.append(len(seen))
    assert passes == [2, 4]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_vit", 32, (64, 4)),  # a class token in front
        ("test_resnet", 64, (96, 4)),
        ("test_mambaout", 64, (64, 4)),  # channels last
        ("mobilenetv1_100", 64, (1024, 4)),
    ],
)
def test_any_trunk_of_timm_gives_tokens(name: str, size: int, expected: tuple[int, int]) -> None:
    trunk, width, num_patches = build_trunk("mine", {"kind": "timm", "name": name, "image_size": size}, Padding.SAME)
    output_INF = trunk.eval()(torch.zeros(2, 3, size, size))
    assert output_INF.shape == (2, num_patches, width)
    assert (width, num_patches) == expected


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ({"kind": "timm", "name": "nosuch", "image_size": 32}, "cannot be built"),
        ({"kind": "timm", "name": "test_vit"}, "cannot be built: .*image_size"),
        ({"kind": "eva", "image_size": 32}, "cannot be built"),
        ({"kind": "magic"}, "kind of its image trunk is 'magic', expected eva or timm"),
        (
            {"kind": "eva", "image_size": 32, "patch_size": 8, "width": 60, "layers": 1, "head_width": 16}
            | {"mlp_width": 8},
            "width 60 does not divide into heads of 16",
        ),
    ],
)
def test_a_trunk_that_is_none_is_refused_in_one_line(trunk: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=message) as caught:
        build_trunk("mine", trunk, Padding.SYMMETRIC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "needs a BERT-like text encoder"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "with absolute positions"),
        ({"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}, "cannot be built of config.json"),
    ],
)
def test_a_text_encoder_that_is_none_is_refused_in_one_line(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=message) as caught:
        build_text("mine", config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_a_text_alone_is_read_as_transformers_itself_reads_it(kind: str) -> None:
    """The library's own forward pass is the twin; where positions begin differs between the kinds."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    config = {"model_type": kind, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1, **sizes}
    text = build_text("mine", config).eval()
    trunk, width, num_patches = build_trunk("mine", {"kind": "timm", "name": "test_vit", "image_size": 64}, SYMMETRIC)
    network = FusionNetwork(text, trunk, width, num_patches).eval()
    tokens_RT = torch.tensor([[0, 7, 9, 30, 2], [0, 8, 2, 1, 1]])
    length_R = torch.tensor([5, 3])
    found = network(NO_IMAGES, Rows(tokens_RT, length_R, torch.tensor([-1, -1])))
    state_RD = text(input_ids=tokens_RT, attention_mask=(tokens_RT != 1).long()).last_hidden_state[:, 0]
    torch.testing.assert_close(found, torch.nn.functional.normalize(state_RD, dim=-1), atol=1e-6, rtol=0)
    assert network.max_text == (40 if kind == "bert" else 38)


def test_too_few_positions_for_patches_and_a_text_are_refused() -> None:
    config = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = build_text("mine", config | {"intermediate_size": 16, "vocab_size": 9, "max_position_embeddings": 18})
    trunk, width, num_patches = build_trunk(
        "mine", {"kind": "timm", "name": "test_vit", "image_size": 64}, Padding.SAME
    )
    with pytest.raises(ValueError, match="has 18 positions, too few for 16 patches and a text"):
        FusionNetwork(text, trunk, width, num_patches)
