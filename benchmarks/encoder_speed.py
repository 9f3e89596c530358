"""Measures how fast items are embedded, beside clip-retrieval and infinity: `python -m benchmarks.encoder_speed`.

All have the same weights, those of a ViT-B/32 as Hugging Face keeps it, and the same images and texts. Whole commands
and processes run in turns. What they start with is measured too, with few images, and taken away.

Shape legend: N = keys, D = width.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from anykey.encoder import Encoder, Item, Role
from anykey.encoder.towers.conversion import convert_weights
from anykey.program.settings import plain_console
from benchmarks.recorded import Recorded
from benchmarks.setting import processor

ARCHITECTURE = "ViT-B-32-quickgelu"  # what open_clip calls Hugging Face's default CLIP
BATCH_SIZE = 64
NUM_SHARDS = 2  # one for each process that prepares images for clip-retrieval
NUM_FEW = 64  # images of the runs that tell how long a start takes
NUM_TEXTS = 100
IMAGE_PX = (512, 384)
LEAST_COSINE = 0.999  # with the vectors of float32: else they did not do the same work
OURS, OURS_FP32, CLIP_RETRIEVAL, INFINITY = "AnyKey", "AnyKey, float32 by torch", "clip-retrieval", "infinity"
PARTS = ("images", "text", "overlap")

Command = list[str | Path]


@dataclass(frozen=True)
class Inputs:
    """The same weights in two layouts, and shards of many and of few images."""

    hugging_face: Path
    open_clip: Path
    many: tuple[Path, ...]
    few: tuple[Path, ...]


def write_inputs(folder: Path, num_images: int) -> Inputs:
    """Random weights, and photos of noise at a photo's size."""
    torch.manual_seed(0)
    hugging_face, converted = folder / "clip", folder / "converted"
    CLIPModel(CLIPConfig()).save_pretrained(hugging_face)
    CLIPImageProcessor().save_pretrained(hugging_face)
    _write_tokenizer(hugging_face)
    convert_weights(str(hugging_face), converted)
    many, few = (_write_shards(folder, name, number) for name, number in (("many", num_images), ("few", NUM_FEW)))
    return Inputs(hugging_face, converted / "open_clip_model.safetensors", many, few)


def measure_images(inputs: Inputs, peers: Path, folder: Path, num_images: int, rounds: int) -> dict[str, Any]:
    """Seconds of whole commands with many images and with few, round by round; who begins changes.

    Raises:
        RuntimeError: a command failed, or one gave other vectors.
    """
    embedders: dict[str, Callable[[Sequence[Path], Path], Command]] = {
        OURS: lambda shards, output: _ours(inputs, shards, output),
        OURS_FP32: lambda shards, output: [*_ours(inputs, shards, output), "--backend", "torch", "--precision", "fp32"],
        CLIP_RETRIEVAL: lambda shards, output: _clip_retrieval(inputs, peers, shards, output),
        INFINITY: lambda shards, output: [*_infinity(inputs, peers, "images"), output, str(BATCH_SIZE), *shards],
    }
    seconds_of(_ours(inputs, inputs.few, folder / "first"), folder)  # in which it finds out what is fastest here
    seconds: dict[str, dict[str, list[float]]] = {name: {"many": [], "few": []} for name in embedders}
    for number in range(rounds):
        for name in list(embedders)[:: 1 if number % 2 else -1]:
            for size, shards in (("many", inputs.many), ("few", inputs.few)):
                output = folder / f"{name}-{number}-{size}"
                seconds[name][size].append(seconds_of(embedders[name](shards, output), folder))
    vectors = {name: our_vectors(folder / f"{name}-0-many") for name in (OURS, OURS_FP32)}
    vectors[CLIP_RETRIEVAL] = their_vectors(folder / f"{CLIP_RETRIEVAL}-0-many")
    vectors[INFINITY] = np.load(folder / f"{INFINITY}-0-many.npy")
    cosines = {name: require_same(vectors[OURS_FP32], found, name) for name, found in vectors.items()}
    facts = {"num_images": num_images, "num_few": NUM_FEW, "batch_size": BATCH_SIZE, "cosines": cosines}
    encoder = _loaded(inputs, folder)
    return {**facts, "way": f"{encoder.precision} by {encoder.backend}", "seconds": seconds}


def measure_text(inputs: Inputs, peers: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of a single text, by everyone in turns: the median of each round."""
    texts = folder / "texts.json"
    texts.write_text(json.dumps(list(_texts())))
    python = peers / "clip-retrieval" / "bin" / "python"
    clip_retrieval = [python, _peer("clip_retrieval_peer"), f"open_clip:{ARCHITECTURE}/{inputs.open_clip}", texts]
    this = [sys.executable, "-m", "benchmarks.encoder_speed", "--time-texts", texts, "--checkpoint"]
    timed: dict[str, Command] = {
        OURS: [*this, inputs.hugging_face],
        OURS_FP32: [*this, inputs.hugging_face, "--plain"],
        CLIP_RETRIEVAL: clip_retrieval,
        INFINITY: [*_infinity(inputs, peers, "text"), texts],
    }
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds):
        for name in list(timed)[:: 1 if number % 2 else -1]:
            found[name].append(float(output_of(timed[name], folder).split()[-1]))
    return {"milliseconds": found, "num_texts": NUM_TEXTS}


def measure_overlap(inputs: Inputs, images: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Images a second of preparation alone, of the model alone, and of the whole command."""
    encoder, num_threads = _loaded(inputs, folder), os.cpu_count() or 1
    items = [Item(images=(photo,)) for shard in inputs.many for photo in _photos(shard)]
    with ThreadPoolExecutor(num_threads) as pool:
        started_s = time.perf_counter()
        prepared = list(pool.map(lambda item: encoder.prepare(item, Role.KEY), items))
        prepared_s = time.perf_counter() - started_s
    encoder.encode_prepared(prepared[:BATCH_SIZE])
    started_s = time.perf_counter()
    for start in range(0, len(prepared), BATCH_SIZE):
        encoder.encode_prepared(prepared[start : start + BATCH_SIZE])
    encoded_s = time.perf_counter() - started_s
    both = median(rates(images["seconds"][OURS], images["num_images"]))
    return {"prepared": len(items) / prepared_s, "encoded": len(items) / encoded_s, "both": both}


def rates(seconds: Mapping[str, Sequence[float]], num_images: int) -> list[float]:
    """Images a second without the start, round by round: what many images took beyond few."""
    pairs = zip(seconds["many"], seconds["few"], strict=True)
    return [(num_images - NUM_FEW) / (many_s - few_s) for many_s, few_s in pairs]


def require_same(expected_ND: NDArray[np.float32], found_ND: NDArray[np.float32], name: str) -> float:
    """The least cosine of two vectors of one image.

    Raises:
        RuntimeError: they are not the same vectors.
    """
    if expected_ND.shape != found_ND.shape:
        raise RuntimeError(f"{name} gave vectors {found_ND.shape}, expected {expected_ND.shape}")
    lengths_N = np.linalg.norm(expected_ND, axis=1) * np.linalg.norm(found_ND, axis=1)
    least = float(np.min(np.sum(expected_ND * found_ND, axis=1) / lengths_N))
    if least < LEAST_COSINE:
        raise RuntimeError(f"{name} gave other vectors: cosine {least:.4f}, expected at least {LEAST_COSINE}")
    return least


def our_vectors(folder: Path) -> NDArray[np.float32]:
    """Vectors `[N, D]` in the order of the corpus."""
    shards = [pq.read_table(path, columns=["vector"]) for path in sorted(folder.glob("*.parquet"))]
    return np.array([row for shard in shards for row in shard["vector"].to_pylist()], np.float32)


def their_vectors(folder: Path, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """clip-retrieval's vectors `[N, D]`, of which each of its workers reads a shard, a batch in turn."""
    found_ND = np.concatenate([np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))])
    shards: list[list[NDArray[Any]]] = [[] for _ in range(NUM_SHARDS)]
    start, per_shard = 0, len(found_ND) // NUM_SHARDS
    for offset in range(0, per_shard, batch_size):
        for shard in shards:
            end = start + min(batch_size, per_shard - offset)
            shard.append(found_ND[start:end])
            start = end
    return np.concatenate([batch for shard in shards for batch in shard]).astype(np.float32)


def output_of(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints, which keeps what it remembers in the folder and asks the network for nothing.

    Raises:
        RuntimeError: it failed.
    """
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DO_NOT_TRACK": "1"}
    environment = {**os.environ, **offline, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout


def seconds_of(command: Sequence[str | Path], folder: Path) -> float:
    """How long a command takes."""
    started_s = time.perf_counter()
    output_of(command, folder)
    return time.perf_counter() - started_s


def time_texts(texts: Sequence[str], encoder: Encoder) -> float:
    """Median milliseconds of a single text."""
    encoder.encode([Item(texts[0])])
    found = []
    for text in texts:
        started_s = time.perf_counter()
        encoder.encode([Item(text)])
        found.append(time.perf_counter() - started_s)
    return 1000 * median(found)


def _loaded(inputs: Inputs, folder: Path) -> Encoder:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # where the choice is that the commands go by
    return Encoder.load(inputs.hugging_face, device="cpu", backend="auto")


def _ours(inputs: Inputs, shards: Sequence[Path], output: Path) -> Command:
    command: Command = [sys.executable, "-m", "anykey.index", "embed", "--corpus", ",".join(map(str, shards))]
    command += ["--output", output, "--checkpoint", inputs.hugging_face, "--device", "cpu"]
    return [*command, "--batch-size", str(BATCH_SIZE), "--vectors", "float32", "--images", "reference"]


def _clip_retrieval(inputs: Inputs, peers: Path, shards: Sequence[Path], output: Path) -> Command:
    pattern = str(shards[0]).replace("-0.tar", f"-{{0..{NUM_SHARDS - 1}}}.tar")
    command: Command = [peers / "clip-retrieval" / "bin" / "clip-retrieval", "inference", "--input_dataset", pattern]
    command += ["--input_format", "webdataset", "--output_folder", output, "--enable_text", "False"]
    command += ["--clip_model", f"open_clip:{ARCHITECTURE}/{inputs.open_clip}", "--batch_size", str(BATCH_SIZE)]
    return [*command, "--num_prepro_workers", str(NUM_SHARDS), "--output_partition_count", "1"]


def _infinity(inputs: Inputs, peers: Path, work: str) -> Command:
    return [peers / "infinity" / "bin" / "python", _peer("infinity_peer"), work, inputs.hugging_face]


def _peer(name: str) -> Path:
    return Path(__file__).parent / "peers" / f"{name}.py"


def _texts() -> Iterator[str]:
    generator = random.Random(0)
    nouns, places = ("dog", "bicycle", "market", "violin", "harbour"), ("snow", "the evening sun", "an old town")
    for number in range(NUM_TEXTS):
        yield f"a photo of a {generator.choice(nouns)} in {generator.choice(places)}, number {number}"


def _write_tokenizer(folder: Path) -> None:
    """CLIP's own tokenizer as Hugging Face keeps it, made from open_clip's copy of its vocabulary."""
    clip: Any = open_clip.tokenizer.SimpleTokenizer()
    vocabulary = {token.replace("<start_of_text>", "<|startoftext|>"): i for token, i in clip.encoder.items()}
    vocabulary = {token.replace("<end_of_text>", "<|endoftext|>"): i for token, i in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.get)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
    CLIPTokenizerFast(**files, model_max_length=77).save_pretrained(folder)


def _write_shards(folder: Path, name: str, num_images: int) -> tuple[Path, ...]:
    """Shards of equal length."""
    generator = random.Random(num_images)
    shards = tuple(folder / f"{name}-{shard}.tar" for shard in range(NUM_SHARDS))
    for shard in shards:
        with tarfile.open(shard, "w") as tar:
            for number in range(num_images // NUM_SHARDS):
                member, data = tarfile.TarInfo(f"{shard.stem}-{number:06}.jpg"), photo(generator)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shards


def photo(generator: random.Random) -> bytes:
    """A JPEG with large areas and some detail, about as hard to decode as a photo."""
    coarse = Image.frombytes("RGB", (16, 12), generator.randbytes(16 * 12 * 3)).resize(IMAGE_PX)
    fine = Image.frombytes("RGB", (128, 96), generator.randbytes(128 * 96 * 3)).resize(IMAGE_PX)
    buffer = io.BytesIO()
    Image.blend(coarse, fine, 0.2).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _photos(shard: Path) -> Iterator[bytes]:
    with tarfile.open(shard) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            yield file.read()


def page_of(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, in Markdown."""
    images, text, overlap = (parts[name] for name in PARTS)
    lines = [
        "# Embedding, beside others",
        "",
        f"ViT-B/32 with the same random weights for all, on {images['machine']}. clip-retrieval is 2.45, which has "
        "open_clip's network; infinity is 0.0.78, which has Hugging Face's. All run in turns: read the ratios. "
        "`make perf-encoder` measures it again.",
        "",
        "## Images",
        "",
        f"Whole commands over {images['num_images']:,} drawn JPEGs of 512 x 384 in tar shards, in batches of "
        f"{images['batch_size']}. A rate is that of the images beyond the first {images['num_few']}, so without the "
        f"start. With `--backend auto`, AnyKey found {images['way']} to be the fastest way on this machine.",
        "",
        "| | images/s | AnyKey's rate over it, by rounds | least cosine with float32 |",
        "|---|---:|---|---:|",
    ]
    found = {name: rates(seconds, images["num_images"]) for name, seconds in images["seconds"].items()}
    for name, rounds in found.items():
        ratios = [mine / other for mine, other in zip(found[OURS], rounds, strict=True)]
        lines.append(f"| {name} | {median(rounds):.1f} | {_spread(ratios)} | {images['cosines'][name]:.5f} |")
    lines += [
        "",
        "## A single text",
        "",
        f"The median of {text['num_texts']} short texts, one after the other, in a process that has the model loaded.",
        "",
        "| | milliseconds | its time over AnyKey's, by rounds |",
        "|---|---:|---|",
    ]
    for name, rounds in text["milliseconds"].items():
        ratios = [other / mine for mine, other in zip(text["milliseconds"][OURS], rounds, strict=True)]
        lines.append(f"| {name} | {median(rounds):.1f} | {_spread(ratios)} |")
    slower = min(overlap["prepared"], overlap["encoded"])
    lines += [
        "",
        "## Preparing images beside the model",
        "",
        f"JPEGs are decoded, resized and normalised at {overlap['prepared']:.1f} images/s where nothing else runs, and "
        f"the model alone embeds {overlap['encoded']:.1f} images/s. Both at once, in `anykey-index embed`, reach "
        f"{overlap['both']:.1f} images/s: {overlap['both'] / slower:.2f} of the slower of the two. On a CPU they share "
        "its cores: one after the other they would reach "
        f"{1 / (1 / overlap['prepared'] + 1 / overlap['encoded']):.1f} images/s.",
        "",
    ]
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, records and writes; parts that are not asked for are taken as they were recorded."""
    parser = argparse.ArgumentParser(description="Measures how fast items are embedded, beside others.")
    parser.add_argument("--num-images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, help="parts to measure; none: the page alone"
    )
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="environments that make peers made")
    parser.add_argument("--output", type=Path, default=Path("docs/results/encoders.md"))
    parser.add_argument("--time-texts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.time_texts is not None:  # a process of its own, as the others have
        way = {"backend": "torch", "precision": "fp32"} if arguments.plain else {"backend": "auto"}
        encoder = Encoder.load(arguments.checkpoint, device="cpu", **way)
        plain_console().print(time_texts(json.loads(arguments.time_texts.read_text()), encoder))
        return
    recorded, peers = Recorded(arguments.output.with_suffix("")), arguments.peers.absolute()
    capability = torch.backends.cpu.get_cpu_capability()  # without AVX512, there are no instructions for 16 bits
    machine = {"machine": f"{processor()} with {capability}, {os.cpu_count()} cores, no GPU"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = write_inputs(folder, arguments.num_images)
        if "images" in arguments.only:
            found = measure_images(inputs, peers, folder, arguments.num_images, arguments.rounds)
            recorded.write("images", machine | found)
        if "text" in arguments.only:
            recorded.write("text", machine | measure_text(inputs, peers, folder, arguments.rounds))
        if "overlap" in arguments.only:
            recorded.write("overlap", machine | measure_overlap(inputs, recorded.parts(PARTS)["images"], folder))
    page = page_of(recorded.parts(PARTS))
    plain_console().print(page)
    arguments.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
