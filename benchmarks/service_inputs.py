"""What the service and its peers are measured with: the same weights, keys and photos for all.

Shape legend: D = width, N = keys, B = batch.
"""

import base64
import itertools
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anykey.encoder import Encoder
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts
from benchmarks.encoder_speed import photo, write_inputs
from benchmarks.search_speed import ClusteredVectors

COMMIT_KEYS = 10_000
NUM_PHOTOS = 400
NOUNS = ("dog", "bicycle", "market", "violin", "harbour", "lantern", "mountain", "kettle")
PLACES = ("in snow", "in the evening sun", "in an old town", "on a table", "beside a river")


@dataclass(frozen=True)
class ServiceInputs:
    """Files for all services.

    Attributes:
        folder: Where all of it is.
        num_keys: N.
    """

    folder: Path
    num_keys: int

    @property
    def checkpoint(self) -> Path:
        """The weights as Hugging Face keeps them."""
        return self.folder / "clip"

    @property
    def open_clip(self) -> Path:
        """The same as open_clip keeps them."""
        return self.folder / "converted" / "open_clip_model.safetensors"

    @property
    def index(self) -> Path:
        """Our index."""
        return self.folder / f"index-{self.num_keys}"

    @property
    def peer_index(self) -> Path:
        """clip-retrieval's."""
        return self.folder / f"clip-retrieval-{self.num_keys}"

    @property
    def indices_paths(self) -> Path:
        """What tells clip-retrieval where that is."""
        return self.folder / f"indices-{self.num_keys}.json"

    def photos(self) -> list[bytes]:
        """JPEGs of 512 x 384, all different."""
        generator = random.Random(1)
        return [photo(generator) for _ in range(NUM_PHOTOS)]


def prepare(folder: Path, num_keys: int, clip_retrieval: Path | None, say: Callable[[str], object]) -> ServiceInputs:
    """Writes what is not there yet.

    Args:
        folder: For all files.
        num_keys: Keys of each index.
        clip_retrieval: Its command; `None`: it gets no index.
        say: Told of each step.

    Raises:
        RuntimeError: clip-retrieval made no index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = ServiceInputs(folder.absolute(), num_keys)
    if not inputs.open_clip.exists():
        say("writing weights")
        write_inputs(folder, num_images=2)
    if not (inputs.index / "CURRENT").exists():
        say(f"building our index of {num_keys:,} keys")
        _build_ours(inputs)
    if clip_retrieval is not None and not inputs.indices_paths.exists():
        say("building clip-retrieval's")
        _build_theirs(inputs, clip_retrieval)
    return inputs


def texts() -> Iterator[str]:
    """Captions without an end, no two alike, nor like those of an earlier run."""
    generator, run = random.Random(0), time.time_ns() % 10**9
    for number in itertools.count():
        yield f"a photo of a {generator.choice(NOUNS)} {generator.choice(PLACES)}, number {run} {number}"


def new_photos(photos: list[bytes]) -> Iterator[str]:
    """Photos without an end as base64, no two alike: what follows the end of a JPEG is passed over by all decoders."""
    run = time.time_ns().to_bytes(8, "big")
    for number in itertools.count():
        yield base64.b64encode(photos[number % len(photos)] + run + number.to_bytes(8, "big")).decode()


def _payload(number: int) -> dict[str, Any]:
    return {"url": f"https://pictures.example/{number:08}.jpg", "caption": f"{NOUNS[number % len(NOUNS)]} {number}"}


def _build_ours(inputs: ServiceInputs) -> None:
    facts = EncoderFacts.of(Encoder.load(inputs.checkpoint, device="cpu", backend="torch"))
    create_index(inputs.index, facts)
    numbers = itertools.count()
    with FaissIndex.open(inputs.index, writable=True, compact_after=0) as index:
        for vectors_BD in ClusteredVectors(inputs.num_keys, facts.width).batches(inputs.num_keys, COMMIT_KEYS):
            rows = [(number, vector_D) for vector_D, number in zip(vectors_BD, numbers, strict=False)]
            index.upsert(
                [
                    NewKey(f"key-{n}", vector_D, text=_payload(n)["caption"], metadata=_payload(n))
                    for n, vector_D in rows
                ]
            )
        index.compact()


def _build_theirs(inputs: ServiceInputs, command: Path) -> None:
    embeddings = inputs.folder / f"embeddings-{inputs.num_keys}"
    (embeddings / "img_emb").mkdir(parents=True, exist_ok=True)
    (embeddings / "metadata").mkdir(exist_ok=True)
    width = json.loads((inputs.checkpoint / "config.json").read_text())["projection_dim"]
    vectors_ND = np.concatenate(list(ClusteredVectors(inputs.num_keys, width).batches(inputs.num_keys, COMMIT_KEYS)))
    np.save(embeddings / "img_emb" / "img_emb_0.npy", vectors_ND.astype(np.float16))
    payloads = pa.Table.from_pylist([_payload(number) for number in range(inputs.num_keys)])
    pq.write_table(payloads, embeddings / "metadata" / "metadata_0.parquet")
    made = [command, "index", "--embeddings_folder", embeddings, "--index_folder", inputs.peer_index]
    done = subprocess.run(
        [*map(str, made), "--max_index_memory_usage", "1G", "--current_memory_available", "4G", "--nb_cores", "2"],
        capture_output=True,
        text=True,
    )
    if done.returncode or not (inputs.peer_index / "image.index").exists():
        raise RuntimeError(f"clip-retrieval made no index: {(done.stdout + done.stderr)[-2000:]}")
    inputs.indices_paths.write_text(json.dumps({"keys": str(inputs.peer_index)}))
