"""An encoder computed by other libraries and in other numbers gives float32's vectors, or it is not computed so."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anykey.encoder import Encoder, EncoderError, Item, Role
from anykey.encoder.backend_choice import Choice, choose, overlap
from anykey.encoder.backends import FIXED_SIZES, PLAIN, Cores, Way, in_fixed_batches, ways
from anykey.encoder.errors import DeviceUnavailableError
from tests.fakes import FakeEncoder, FakePrepared
from tests.full_disk import no_file_beyond
from tests.pictures import photo

CPU = torch.device("cpu")
ITEMS = [
    Item(text="a red square"),
    Item(text="x"),
    Item(images=(photo(),)),
    Item(text="a green circle beside more words than the others have", images=(photo(seed=1), photo(seed=2))),
]
SAME = [  # float32 by another library, half of the bits, and a quarter of them
    (Way("torch", "bf16"), 0.999),
    (Way("torch", "int8"), 0.99),
    *(  # which take long to make
        pytest.param(way, least, marks=pytest.mark.slow)
        for way, least in (
            (Way("openvino", "fp32"), 0.99999),
            (Way("openvino", "bf16"), 0.999),
            (Way("onnx", "fp32"), 0.99999),
            (Way("onnx", "int8"), 0.99),
        )
    ),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


LOADING = """
import ctypes, gc, os, sys
from anykey.encoder import Encoder, Item

def anonymous_mib():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/status").read().partition("RssAnon:")[2].split()[0]) / 1024

after = []
for _ in range(4):
    Encoder.load(sys.argv[1], backend="openvino", precision="fp32").encode([Item(text="a")])
    after.append(anonymous_mib())
assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
assert not os.listdir(os.environ["HOME"])
print(after[-1] - after[1])
"""


def test_openvino_tells_its_makers_nothing_and_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What it would tell comes with a number of this machine, which it keeps in the home folder."""
    assert float(_told_outside_ci(LOADING, tiny_checkpoint, tmp_path)) < 8, "MiB more after two more loads"


def test_onnx_runtime_tells_its_makers_nothing(tiny_checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    """It would keep a number of this machine, and what it could not send yet, in the user's cache folder."""
    script = "import sys; from anykey.encoder import Encoder; print(Encoder.load(sys.argv[1], backend='onnx').backend)"
    assert _told_outside_ci(script, tiny_checkpoint, tmp_path) == "onnx"
    assert [path.name for path in cache.iterdir()] == ["anykey"]
    assert not list((tmp_path / "home").iterdir())


def _told_outside_ci(script: str, checkpoint: Path, folder: Path) -> str:
    """The first word that a process prints that does not look like one of CI, where libraries tell nobody."""
    (folder / "home").mkdir()
    surroundings = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command, env = [sys.executable, "-c", script, str(checkpoint)], surroundings | {"HOME": str(folder / "home")}
    told = subprocess.run(command, check=True, env=env, timeout=240, stdout=subprocess.PIPE, text=True)
    return told.stdout.split()[0]


@pytest.mark.parametrize(("way", "least_cosine"), SAME, ids=lambda value: str(value))
def test_every_way_gives_float32s_vectors(
    tiny_checkpoint: Path, tiny_encoder: Encoder, way: Way, least_cosine: float
) -> None:
    """Together and alone, so with other numbers of items and other lengths of texts than it was made with."""
    encoder = Encoder.load(tiny_checkpoint, backend=way.backend, precision=way.precision)

    together_BD, plain_BD = encoder.encode(ITEMS), tiny_encoder.encode(ITEMS)
    alone_BD = np.concatenate([encoder.encode([item]) for item in ITEMS])

    assert (encoder.backend, encoder.precision, encoder.why) == (*way, "")
    assert encoder.fingerprint == tiny_encoder.fingerprint
    for vectors_BD in (together_BD, alone_BD):
        np.testing.assert_allclose(np.linalg.norm(vectors_BD, axis=1), 1.0, atol=1e-6)
        assert (vectors_BD * plain_BD).sum(axis=1).min() > least_cosine


@pytest.mark.slow
def test_a_network_is_exported_once(tiny_checkpoint: Path, cache: Path) -> None:
    way = Way("onnx", "int8")
    first = Encoder.load(tiny_checkpoint, backend=way.backend, precision=way.precision)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("network.onnx")}
    assert len(written) == 2
    again = Encoder.load(tiny_checkpoint, backend=way.backend, precision=way.precision)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("network.onnx")} == written
    np.testing.assert_array_equal(again.encode(ITEMS), first.encode(ITEMS))
    assert again.weights_bytes == first.weights_bytes > 0


@pytest.mark.slow
def test_a_way_for_whose_files_there_is_no_room_cannot_be_had(tiny_checkpoint: Path, tiny_encoder: Encoder) -> None:
    with no_file_beyond(4096), pytest.raises(DeviceUnavailableError, match="cannot be computed in fp32 by onnx: "):
        Encoder.load(tiny_checkpoint, backend="onnx", precision="fp32")


@pytest.mark.slow
def test_batches_that_cores_share_have_the_vectors_of_each_item(tiny_checkpoint: Path) -> None:
    encoder = Encoder.load(tiny_checkpoint, backend="onnx", precision="int8")
    items = [ITEMS[number % len(ITEMS)] for number in range(50)]
    alone_BD = encoder.encode(items, batch_size=1)
    with ThreadPoolExecutor(4) as threads:
        found = [encoder.encode(items), *threads.map(encoder.encode, [items] * 8)]
    for vectors_BD in found:
        assert (vectors_BD * alone_BD).sum(axis=1).min() > 0.99


class ByCores:
    """A sum that cores compute together or alone.

    Attributes:
        computed: By all cores or by one, and of how many rows, in order.
        beside: Called while all compute together.
    """

    def __init__(self, num_cores: int = 2) -> None:
        self.cores = Cores(num_cores)
        self.computed: list[tuple[str, int]] = []
        self.beside: Callable[[], object] = lambda: None

    def sums(self, num_rows: int) -> NDArray[np.int64]:
        """So many rows of sums."""
        numbers = np.arange(num_rows)
        return np.asarray(self.cores.compute(self._by_all, self._by_one, [numbers, 10 * numbers]))

    def _by_all(self, arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        self.computed.append(("all", len(arrays[0])))
        self.beside()
        return arrays[0] + arrays[1]

    def _by_one(self, arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        self.computed.append(("one", len(arrays[0])))
        return arrays[0] + arrays[1]


@pytest.mark.parametrize("num_rows", [1, 3, 4, 16, 17, 50])
def test_a_batch_is_computed_by_all_cores_together_or_in_parts(num_rows: int) -> None:
    by_cores = ByCores()
    np.testing.assert_array_equal(by_cores.sums(num_rows), 11 * np.arange(num_rows))
    sizes = [size for _, size in by_cores.computed]
    assert sum(sizes) == num_rows
    if num_rows < 4:
        assert by_cores.computed == [("all", num_rows)]
    else:
        assert {by for by, _ in by_cores.computed} == {"one"}
        assert len(sizes) % 2 == 0  # each core has as many
        assert max(sizes) <= 8
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("num_cores", "num_rows", "parts"),
    [(2, 20, [20]), (2, 1, [1]), (4, 20, [5, 5, 5, 5]), (8, 20, [5, 5, 5, 5]), (16, 6, [2, 2, 2]), (16, 3, [3])],
)
def test_a_batch_beside_another_has_its_share_of_the_cores(num_cores: int, num_rows: int, parts: list[int]) -> None:
    by_cores = ByCores(num_cores)
    by_cores.beside = lambda: by_cores.sums(num_rows)
    by_cores.sums(1)
    assert by_cores.computed == [("all", 1), *[("one", size) for size in parts]]


def test_a_batch_that_fails_leaves_all_cores_to_the_next() -> None:
    by_cores = ByCores()

    def fail() -> None:
        raise RuntimeError("out of memory")

    by_cores.beside = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        by_cores.sums(2)
    by_cores.beside = lambda: None
    by_cores.sums(2)
    assert by_cores.computed == [("all", 2), ("all", 2)]


def test_batches_of_any_size_are_computed_in_a_few_sizes() -> None:
    """As on a GPU, where kernels are compiled for each of them."""
    torch.manual_seed(0)
    network, sizes = torch.nn.Bilinear(3, 4, 5), []

    def run(left_B3: torch.Tensor, right_B4: torch.Tensor) -> torch.Tensor:
        sizes.append((len(left_B3), len(right_B4)))
        features_B5: torch.Tensor = network(left_B3, right_B4)
        return features_B5

    fixed = in_fixed_batches(run)
    for num_rows in (1, 2, 8, 9, 33, 64, 65, 130):
        inputs = torch.randn(num_rows, 3), torch.randn(num_rows, 4)
        with torch.inference_mode():
            torch.testing.assert_close(fixed(*inputs), network(*inputs))
    assert {left for left, _ in sizes} == set(FIXED_SIZES)
    assert all(left == right for left, right in sizes)


@pytest.mark.slow
def test_torchs_compiler_gives_float32s_vectors(tiny_checkpoint: Path, tiny_encoder: Encoder) -> None:
    encoder = Encoder.load(tiny_checkpoint, backend="compile")
    np.testing.assert_allclose(encoder.encode(ITEMS), tiny_encoder.encode(ITEMS), atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("torch", "fp16", "precision fp16 cannot be had on cpu by torch: expected one of fp32, bf16, int8"),
        ("auto", "fp16", "precision fp16 cannot be had on cpu: expected one of fp32, bf16, int8"),
        ("openvino", "int8", "precision int8 cannot be had on cpu by openvino: expected one of fp32, bf16"),
        ("tensorrt", "auto", "unknown backend 'tensorrt', expected auto, torch, compile, onnx, openvino"),
        ("torch", "fp8", "unknown precision 'fp8', expected auto, fp32, bf16, fp16, int8"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_anything_is_read(
    backend: str, precision: str, message: str
) -> None:
    with pytest.raises(DeviceUnavailableError) as error:
        Encoder.load("/nowhere", device="cpu", backend=backend, precision=precision)
    assert str(error.value) == message


def test_exported_networks_are_of_the_cpu_only() -> None:
    with pytest.raises(DeviceUnavailableError, match="backend openvino computes on the CPU only, not on cuda:0"):
        ways(torch.device("cuda:0"), "openvino")


@pytest.mark.parametrize("way", [Way("torch", "bf16"), Way("torch", "int8")], ids=str)
def test_a_real_encoder_goes_on_as_before_it_was_tried(tiny_checkpoint: Path, way: Way) -> None:
    encoder = Encoder.load(tiny_checkpoint)
    before_BD = encoder.encode(ITEMS)

    with encoder.tries(way):
        tried_BD = encoder.encode(ITEMS)
        assert (encoder.backend, encoder.precision) == way

    assert not np.array_equal(tried_BD, before_BD)
    assert (encoder.backend, encoder.precision) == PLAIN
    np.testing.assert_array_equal(encoder.encode(ITEMS), before_BD)


def test_an_encoder_that_is_fast_is_not_tried(tmp_path: Path) -> None:
    encoder = Trials({GOOD: (0.1, 0.0)})
    encoder.seconds = 0.0
    choice = choose(encoder, [PLAIN, GOOD], tmp_path)
    assert (choice.way, encoder.tried) == (PLAIN, [])
    assert choice.why == "float32 is as fast as it need be, or there is nothing else"


class Trials(FakeEncoder):
    """An encoder whose other ways take a share of the time, and turn vectors away by an angle."""

    def __init__(self, ways: dict[Way, tuple[float, float]]) -> None:
        super().__init__()
        self.ways = ways
        self.tried: list[Way] = []
        self.seconds = 0.01
        self._way = (1.0, 0.0)

    @contextmanager
    def tries(self, way: Way) -> Iterator[None]:
        self.tried.append(way)
        if way not in self.ways:
            raise DeviceUnavailableError(f"{way} cannot be had")
        self._way = self.ways[way]
        try:
            yield
        finally:
            self._way = (1.0, 0.0)

    def encode_prepared(self, prepared: Sequence[FakePrepared]) -> NDArray[np.float32]:
        share, angle = self._way
        time.sleep(self.seconds * share)
        vectors_BD = super().encode_prepared(prepared)
        aside_BD = np.roll(vectors_BD, 1, axis=1)
        aside_BD -= (aside_BD * vectors_BD).sum(axis=1, keepdims=True) * vectors_BD
        aside_BD /= np.maximum(np.linalg.norm(aside_BD, axis=1, keepdims=True), 1e-9)
        turned_BD: NDArray[np.float32] = (np.cos(angle) * vectors_BD + np.sin(angle) * aside_BD).astype(np.float32)
        return turned_BD


GOOD, FAST, FAR, SLOW = Way("torch", "bf16"), Way("openvino", "bf16"), Way("torch", "int8"), Way("onnx", "fp32")


def test_the_fastest_way_whose_vectors_are_float32s_is_chosen(tmp_path: Path) -> None:
    encoder = Trials({GOOD: (0.6, 0.001), FAST: (0.2, 0.001), FAR: (0.1, 0.2), SLOW: (1.5, 0.0)})
    choice = choose(encoder, [PLAIN, GOOD, FAST, FAR, SLOW], tmp_path)

    refused = {each.way: each.refused for each in choice.tried}
    assert choice.way == FAST
    assert refused[GOOD] == refused[FAST] == ""
    assert refused[FAR].startswith("its vectors are too far from float32's: cosine 0.98")
    assert refused[SLOW].startswith("it is no faster: 0.")
    assert "bf16 by openvino: " in choice.why


def test_float32_stays_where_nothing_else_is_as_good(tmp_path: Path) -> None:
    encoder = Trials({FAR: (0.1, 0.2), SLOW: (1.0, 0.0)})
    assert choose(encoder, [PLAIN, FAR, SLOW, GOOD], tmp_path).way == PLAIN
    assert choose(encoder, [PLAIN], tmp_path) == Choice(backend="torch", precision="fp32", tried=[])


def test_what_gains_most_has_its_turn_first(tmp_path: Path) -> None:
    """There may be no time for all of them: float32 by others last, or 16 bits where the processor has none."""
    encoder = Trials({GOOD: (0.6, 0.0), FAST: (0.2, 0.0), SLOW: (0.9, 0.0)})
    is_old = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")

    choose(encoder, [PLAIN, GOOD, SLOW, FAST], tmp_path)

    assert encoder.tried == ([SLOW, FAST, GOOD] if is_old else [FAST, GOOD, SLOW])


def test_a_choice_is_kept_per_checkpoint_and_made_again_where_it_cannot_be_read(tmp_path: Path) -> None:
    encoder = Trials({GOOD: (0.3, 0.0)})
    first = choose(encoder, [PLAIN, GOOD], tmp_path)
    again = choose(encoder, [PLAIN, GOOD], tmp_path)
    assert (first, len(encoder.tried)) == (again, 1)

    (kept,) = tmp_path.iterdir()
    kept.write_text("{")
    assert choose(encoder, [PLAIN, GOOD], tmp_path).way == GOOD
    assert len(encoder.tried) == 2

    other = Trials({GOOD: (0.3, 0.0)})
    other.fingerprint = "sha256:another"
    choose(other, [PLAIN, GOOD], tmp_path)
    assert len(other.tried) == 1


def test_a_cache_that_cannot_be_written_costs_another_trial_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    assert choose(Trials({GOOD: (0.3, 0.0)}), [PLAIN, GOOD], tmp_path / "file").way == GOOD


def test_overlap_is_the_share_of_the_nearest_alike() -> None:
    random = np.random.default_rng(0)
    right_ND, other_ND = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in random.normal(size=(2, 40, 6)))
    mixed_ND = right_ND + 0.2 * other_ND
    mixed_ND /= np.linalg.norm(mixed_ND, axis=1, keepdims=True)

    def nearest(vectors_ND: NDArray[np.float64], n: int) -> set[int]:
        others = [i for i in range(len(vectors_ND)) if i != n]
        return set(sorted(others, key=lambda i: -float(vectors_ND[n] @ vectors_ND[i]))[:10])

    shares = [len(nearest(right_ND, n) & nearest(mixed_ND, n)) / 10 for n in range(40)]
    assert overlap(right_ND.astype(np.float32), mixed_ND.astype(np.float32)) == pytest.approx(np.mean(shares), abs=0.01)
    assert overlap(right_ND.astype(np.float32), right_ND.astype(np.float32)) == 1.0
    assert overlap(right_ND.astype(np.float32), np.full_like(right_ND, np.nan, dtype=np.float32)) < 0.5


def test_an_index_says_by_what_its_vectors_were_computed(tiny_checkpoint: Path) -> None:
    from anykey.index import EncoderFacts

    encoder = Encoder.load(tiny_checkpoint, backend="torch", precision="bf16")
    assert EncoderFacts.of(encoder).computed_in == ["bf16 by torch on cpu"]
    with pytest.raises(EncoderError):
        encoder.encode([Item(text="\ud800")], role=Role.KEY)
