"""Measures embedding against clip-retrieval's: whole commands, the same model, weights and images, in turns.

Shape legend: N = keys, D = width.
"""

import io
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from benchmarks.synthetic_pairs import caption

ARCHITECTURE = "ViT-B-32"
BATCH_SIZE = 64
NUM_SHARDS = 2  # one for each process that prepares images for clip-retrieval
NUM_FEW = 64  # keys of the runs that tell how long a start takes
IMAGE_PX = (512, 384)
ROUNDS = 3
LEAST_COSINE = 0.999  # between the two's vectors of a key: else they did not do the same work
WORK = {"images": False, "images with texts": True}  # name, and whether there are texts

Command = list[str | Path]
Embedder = Callable[[str, Path], Command]  # from shards and the place for the vectors


@dataclass(frozen=True)
class Inputs:
    """What both embed: shards of many keys, and of few, for each kind of work."""

    weights: Path
    shards: dict[str, tuple[str, str]]


def write_inputs(folder: Path, num_keys: int) -> Inputs:
    """Random weights, and photos of noise at a photo's size with captions as long as people's."""
    torch.manual_seed(0)
    weights = folder / "weights.safetensors"
    model = open_clip.create_model(ARCHITECTURE)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    shards = {}
    for work, has_texts in WORK.items():
        name = work.replace(" ", "-")
        many = _write_shards(folder / f"{name}-many", num_keys, has_texts)
        shards[work] = many, _write_shards(folder / f"{name}-few", NUM_FEW, has_texts)
    return Inputs(weights, shards)


def measure(folder: Path, num_keys: int, peer_python: Path) -> dict[str, Any]:
    """Keys a second of both, for each kind of work, round by round.

    Raises:
        RuntimeError: a command failed, or the two gave different vectors.
    """
    inputs = write_inputs(folder, num_keys)
    found: dict[str, Any] = {"num_keys": num_keys, "num_few": NUM_FEW, "architecture": ARCHITECTURE, "work": {}}
    found["batch_size"] = BATCH_SIZE
    for work, has_texts in WORK.items():
        embedders: dict[str, Embedder] = {
            "AnyKey": partial(_ours, inputs.weights),
            "clip-retrieval": partial(_theirs, peer_python, inputs.weights, has_texts),
        }
        found["work"][work] = _in_turns(embedders, inputs.shards[work], folder / work.replace(" ", "-"))
        if not has_texts:
            first = folder / work / "0-many"
            found["least_cosine"] = require_same(our_vectors(first / "AnyKey"), their_vectors(first / "clip-retrieval"))
    return found


def _in_turns(
    embedders: Mapping[str, Embedder], shards: tuple[str, str], folder: Path
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each embedder with many keys and with few, round by round; who begins changes."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "start_seconds": []} for name in embedders}
    for number in range(ROUNDS):
        for name in list(embedders)[:: 1 if number % 2 else -1]:
            for times, size, some in zip(found[name].values(), ("many", "few"), shards, strict=True):
                output = folder / f"{number}-{size}" / name
                output.parent.mkdir(parents=True, exist_ok=True)
                times.append(_seconds(embedders[name](some, output)))
    return found


def keys_per_s(times: dict[str, list[float]], num_keys: int) -> list[float]:
    """Keys a second without the start, round by round: what the many keys took beyond the few."""
    pairs = zip(times["seconds"], times["start_seconds"], strict=True)
    return [(num_keys - NUM_FEW) / (many_s - few_s) for many_s, few_s in pairs]


def require_same(ours_ND: NDArray[np.float32], theirs_ND: NDArray[np.float32]) -> float:
    """The least cosine of the two's vectors of a key.

    Raises:
        RuntimeError: they are not the same vectors.
    """
    if ours_ND.shape != theirs_ND.shape:
        raise RuntimeError(f"AnyKey gave vectors {ours_ND.shape}, clip-retrieval {theirs_ND.shape}")
    least = float(np.min(np.sum(ours_ND * theirs_ND, axis=1) / np.linalg.norm(theirs_ND, axis=1)))
    if least < LEAST_COSINE:
        raise RuntimeError(f"the vectors differ: cosine {least:.4f}, expected at least {LEAST_COSINE}")
    return least


def our_vectors(folder: Path) -> NDArray[np.float32]:
    """Vectors `[N, D]` in the order of the corpus."""
    shards = [pq.read_table(path, columns=["vector"]) for path in sorted(folder.glob("*.parquet"))]
    return np.array([row for shard in shards for row in shard["vector"].to_pylist()], np.float32)


def their_vectors(folder: Path, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Vectors `[N, D]` in the order of the corpus, of which each of its workers reads a shard, a batch in turn."""
    found_ND = np.concatenate([np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))])
    shards: list[list[NDArray[Any]]] = [[] for _ in range(NUM_SHARDS)]
    start, per_shard = 0, len(found_ND) // NUM_SHARDS
    for offset in range(0, per_shard, batch_size):
        for shard in shards:
            end = start + min(batch_size, per_shard - offset)
            shard.append(found_ND[start:end])
            start = end
    return np.concatenate([batch for shard in shards for batch in shard]).astype(np.float32)


def _ours(weights: Path, shards: str, output: Path) -> Command:
    command: Command = [sys.executable, "-m", "anykey.index", "embed", "--corpus", shards, "--output", output]
    command += ["--checkpoint", f"{ARCHITECTURE}@{weights}", "--device", "cpu", "--precision", "fp32"]
    return [*command, "--batch-size", str(BATCH_SIZE), "--vectors", "float32", "--images", "reference"]


def _theirs(python: Path, weights: Path, has_texts: bool, shards: str, output: Path) -> Command:
    command: Command = [python.parent / "clip-retrieval", "inference", "--input_dataset", shards]
    command += ["--input_format", "webdataset", "--output_folder", output, "--enable_text", str(has_texts)]
    command += ["--clip_model", f"open_clip:{ARCHITECTURE}/{weights}", "--batch_size", str(BATCH_SIZE)]
    return [*command, "--num_prepro_workers", str(NUM_SHARDS), "--output_partition_count", "1"]


def _seconds(command: Command) -> float:
    # Neither may ask the network for anything: all weights and words are here.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    started_s = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - started_s


def _write_shards(path: Path, num_keys: int, has_texts: bool) -> str:
    """Shards of equal length; gives the pattern that names them."""
    generator = random.Random(num_keys)
    for shard in range(NUM_SHARDS):
        with tarfile.open(f"{path}-{shard}.tar", "w") as tar:
            for number in range(num_keys // NUM_SHARDS):
                _add(tar, f"{shard}-{number:06}.jpg", _photo(generator))
                if has_texts:
                    _add(tar, f"{shard}-{number:06}.txt", caption(generator, "natural").encode())
    return f"{path}-{{0..{NUM_SHARDS - 1}}}.tar"


def _photo(generator: random.Random) -> bytes:
    """A JPEG with large areas and some detail, about as hard to decode as a photo."""
    coarse = Image.frombytes("RGB", (16, 12), generator.randbytes(16 * 12 * 3)).resize(IMAGE_PX)
    fine = Image.frombytes("RGB", (128, 96), generator.randbytes(128 * 96 * 3)).resize(IMAGE_PX)
    buffer = io.BytesIO()
    Image.blend(coarse, fine, 0.2).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
