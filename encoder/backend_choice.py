"""Which way an encoder computes on this machine: found by trying, kept only where it gives the vectors of float32.

The choice is kept per checkpoint and machine in the cache folder, so that it costs a few seconds once.

Shape legend: N = probe items, D = width, K = nearest items.
"""

import functools
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, ValidationError

from anykey.encoder.backends import PLAIN, UNFIT, Way
from anykey.encoder.errors import DeviceUnavailableError
from anykey.encoder.exports import user_cache, version_of
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import ItemEncoder, Role
from anykey.program.files import replace_file

PROBE_TEXTS = Path(__file__).with_name("probe_texts.json")
LEAST_COSINE = 0.999  # with the vector in float32, of every probe item
LEAST_OVERLAP = 0.98  # of the ten nearest probe items
TIE = 5e-4  # scores this close to the tenth are as good as it
LEAST_GAIN = 1.1  # times as fast as float32; for less, nothing is changed
NEAREST = 10
BATCH = 16
MOST_IMAGES = 32
MEASURED_S = 2.0  # for embedding the pictures at first; a way is timed for about a quarter of that
FAST_IMAGES_S, FAST_TEXT_S = 0.05, 0.005  # a batch of images and a text so quick leave nothing to gain
TRIALS_S = 40.0  # after which no other way is tried
LIBRARIES = ("torch", "onnxruntime", "openvino")
TRIAL = 2  # counts changes of what is tried; what was chosen before one is chosen again
logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


class Tried(BaseModel):
    """A way to compute that was tried.

    Attributes:
        backend: By which library.
        precision: In which numbers.
        speedup: Times as fast as float32 by torch: the geometric mean of a batch of images and of a single text.
        least_cosine: The least of all probe items with their vectors in float32.
        overlap: Mean share of the ten nearest probe items that are those of float32.
        refused: Why it was not taken; empty where it could have been.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    precision: str
    speedup: float = 0.0
    least_cosine: float = 0.0
    overlap: float = 0.0
    refused: str = ""

    @property
    def way(self) -> Way:
        """Its two settings."""
        return Way(self.backend, self.precision)

    def __str__(self) -> str:
        """What was found, for people."""
        if self.refused:
            return f"{self.way}: {self.refused}"
        return (
            f"{self.way}: {self.speedup:.1f} times as fast as float32, cosine with it at least "
            f"{self.least_cosine:.4f}, {self.overlap:.3f} of the ten nearest alike"
        )


class Choice(BaseModel):
    """The way that was chosen, and what was tried.

    Attributes:
        backend: By which library.
        precision: In which numbers.
        tried: All ways that were tried, in the order of trying.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    precision: str
    tried: list[Tried]

    @property
    def way(self) -> Way:
        """Its two settings."""
        return Way(self.backend, self.precision)

    @property
    def why(self) -> str:
        """What was found, in one line."""
        return "; ".join(map(str, self.tried)) or "float32 is as fast as it need be, or there is nothing else"


class Computes(ItemEncoder, Protocol):
    """An encoder whose way to compute can be changed."""

    def tries(self, way: Way) -> AbstractContextManager[None]:
        """A context in which it computes this way, by a copy of its weights.

        Raises:
            DeviceUnavailableError: it cannot; says why.
        """


def choose(encoder: Computes, candidates: Sequence[Way], cache_dir: Path | None = None) -> Choice:
    """The fastest of some ways whose vectors are those of float32, or the plain way.

    Args:
        encoder: Computes the plain way; it does so again afterwards.
        candidates: The ways to choose among.
        cache_dir: Where choices are kept; the user's cache folder when absent.
    """
    others = [way for way in candidates if way != PLAIN]
    if not others:
        return Choice(backend=PLAIN.backend, precision=PLAIN.precision, tried=[])
    path = (cache_dir or user_cache("backends")) / f"{_identity(encoder, others)}.json"
    kept = _read(path)
    if kept is not None:
        logger.info("%s computes in %s, as was chosen here before: %s", encoder.name, kept.way, kept.why)
        return kept
    logger.info("trying how %s computes fastest here, once: %s", encoder.name, ", ".join(map(str, others)))
    choice = _best(encoder, others)
    logger.info("%s computes in %s: %s", encoder.name, choice.way, choice.why)
    _keep(path, choice)
    return choice


def _best(encoder: Computes, others: Sequence[Way]) -> Choice:
    probe = _Probe(encoder)
    if probe.is_fast():
        return Choice(backend=PLAIN.backend, precision=PLAIN.precision, tried=[])
    start = time.perf_counter()
    tried = []
    for way in _in_turn(encoder, others):
        if time.perf_counter() - start > TRIALS_S:
            tried.append(Tried(backend=way.backend, precision=way.precision, refused="not tried, for want of time"))
        else:
            tried.append(probe.tried(way))
    taken = [each for each in tried if not each.refused]
    best = max(taken, key=lambda each: each.speedup, default=None)
    way = PLAIN if best is None else best.way
    return Choice(backend=way.backend, precision=way.precision, tried=tried)


def _in_turn(encoder: Computes, ways: Sequence[Way]) -> list[Way]:
    """The ways, those first that are likely to gain most on this processor: not all may have their turn."""
    is_old = str(encoder.device) == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    last = "bf16" if is_old else "fp32"
    return sorted(ways, key=lambda way: (way.precision == last, way.backend == "torch"))


class _Probe:
    """Items to try an encoder on, with their vectors in float32."""

    def __init__(self, encoder: Computes) -> None:
        self._encoder = encoder
        items = [Item(text=text) for text in _texts()] if Modality.TEXT in encoder.modalities else []
        self._texts = [encoder.prepare(item, Role.QUERY) for item in items]
        self._images = self._as_many_images_as_time_allows()
        self._plain_ND = self._vectors()
        self._plain_s = self._times()

    def is_fast(self) -> bool:
        """Whether float32 is so fast that nothing is to be gained."""
        enough_s = [enough for batch, enough in ((self._images, FAST_IMAGES_S), (self._texts, FAST_TEXT_S)) if batch]
        return all(seconds <= enough for seconds, enough in zip(self._plain_s, enough_s, strict=True))

    def tried(self, way: Way) -> Tried:
        """How one way does, beside float32 at its fastest: no way looks fast because the machine was busy before."""
        try:
            with self._encoder.tries(way):
                other_s = self._times()
                other_ND = self._vectors() if self._speedup(other_s) >= LEAST_GAIN else None
        except (DeviceUnavailableError, *UNFIT) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            return Tried(backend=way.backend, precision=way.precision, refused=reason)
        self._plain_s = list(map(min, self._plain_s, self._times()))
        speedup = self._speedup(other_s)
        if other_ND is None or speedup < LEAST_GAIN:
            reason = f"it is no faster: {speedup:.2f} times as fast as float32"
            return Tried(backend=way.backend, precision=way.precision, speedup=speedup, refused=reason)
        cosines_N = np.nan_to_num((other_ND * self._plain_ND).sum(axis=1), nan=-1.0)
        found = Tried(
            backend=way.backend,
            precision=way.precision,
            speedup=speedup,
            least_cosine=float(cosines_N.min()),
            overlap=overlap(self._plain_ND, other_ND),
        )
        return found.model_copy(update={"refused": _refusal(found)})

    def _speedup(self, other_s: Sequence[float]) -> float:
        """Times as fast as float32: the geometric mean of images and texts."""
        gains = [plain / other for plain, other in zip(self._plain_s, other_s, strict=True)]
        return float(np.prod(gains) ** (1 / len(gains)))

    def _as_many_images_as_time_allows(self) -> list[Any]:
        if Modality.IMAGE not in self._encoder.modalities:
            return []
        prepared: list[Any] = []
        start = time.perf_counter()
        while len(prepared) < MOST_IMAGES and (not prepared or time.perf_counter() - start < MEASURED_S):
            seeds = range(len(prepared), len(prepared) + BATCH // 2)
            more = [self._encoder.prepare(Item(images=(_picture(seed),)), Role.KEY) for seed in seeds]
            self._encoder.encode_prepared(more)
            prepared += more
        return prepared

    def _vectors(self) -> Vectors:
        everything = [*self._texts, *self._images]
        starts = range(0, len(everything), BATCH)
        return np.concatenate([self._encoder.encode_prepared(everything[start : start + BATCH]) for start in starts])

    def _times(self) -> list[float]:
        """Seconds of a batch of images and of a single text, as far as it takes them."""
        batches = [batch for batch in (self._images[:BATCH], self._texts[:1]) if batch]
        return [_seconds(functools.partial(self._encoder.encode_prepared, batch)) for batch in batches]


def overlap(plain_ND: Vectors, other_ND: Vectors) -> float:
    """Mean share of each item's nearest others by `other_ND` that are, but for ties, its nearest by `plain_ND`.

    Args:
        plain_ND: Unit vectors that are right.
        other_ND: Unit vectors of the same items.
    """
    right_NN, found_NN = plain_ND @ plain_ND.T, np.nan_to_num(other_ND @ other_ND.T, nan=-2.0)
    np.fill_diagonal(right_NN, -2.0)
    np.fill_diagonal(found_NN, -2.0)
    num = min(NEAREST, len(plain_ND) - 1)
    nearest_NK = np.argsort(-found_NN, axis=1, kind="stable")[:, :num]
    tenth_N1 = -np.sort(-right_NN, axis=1)[:, num - 1 : num]
    return float((np.take_along_axis(right_NN, nearest_NK, axis=1) >= tenth_N1 - TIE).mean())


def _refusal(found: Tried) -> str:
    if not found.least_cosine >= LEAST_COSINE:
        return f"its vectors are too far from float32's: cosine {found.least_cosine:.4f}, not {LEAST_COSINE} at least"
    if not found.overlap >= LEAST_OVERLAP:
        return f"it finds others than float32: {found.overlap:.3f} of the ten nearest alike, not {LEAST_OVERLAP}"
    return ""


def _seconds(run: Callable[[], Any]) -> float:
    """The best of a few times."""
    times: list[float] = []
    while len(times) < 2 or (sum(times) < MEASURED_S / 4 and len(times) < 10):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _identity(encoder: ItemEncoder, others: Sequence[Way]) -> str:
    """Names what a choice depends on: the checkpoint, the machine, and what can be chosen."""
    facts = {
        "trial": TRIAL,
        "checkpoint": encoder.fingerprint,
        "device": str(encoder.device),
        "machine": [_processor(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
        "libraries": {name: version_of(name) for name in LIBRARIES},
        "ways": [list(way) for way in others],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> Choice | None:
    try:
        return Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("cannot read %s, so it is chosen again how to compute: %s", path, str(error).splitlines()[0])
        return None


def _keep(path: Path, choice: Choice) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, choice.model_dump_json(indent=2).encode())
    except OSError as error:
        logger.warning("cannot keep the choice in %s, so the next start tries again: %s", path, error)


def _texts() -> list[str]:
    """Sentences of different kinds: short and long, of several languages, alike and not."""
    texts: list[str] = json.loads(PROBE_TEXTS.read_bytes())
    return texts


def _picture(seed: int) -> Image.Image:
    """A picture of coarse colours with shapes and fine grain, drawn anew for each seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (2 + seed % 5, 2 + seed % 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(
        (256, 256), Image.Resampling.BICUBIC if seed % 2 else Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(0, 8))):
        x, y = (int(place) for place in random.integers(0, 200, 2))
        side = int(random.integers(10, 120))
        colour = tuple(int(part) for part in random.integers(0, 256, 3))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)((x, y, x + side, y + side), fill=colour)
    grain = random.normal(0, float(random.integers(0, 40)), (256, 256, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
