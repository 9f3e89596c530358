"""Embeds with infinity; run in its own environment, where nothing of ours is.

infinity_peer.py images MODEL OUTPUT BATCH_SIZE SHARD...    writes the vectors of all images to OUTPUT.npy
infinity_peer.py text MODEL TEXTS                           prints the median milliseconds of a single text
"""

import asyncio
import json
import sys
import tarfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from infinity_emb import AsyncEmbeddingEngine, EngineArgs


def engine_of(model: str, batch_size: int) -> Any:
    """Its engine on the CPU, with what it does by itself to be fast there."""
    arguments = {"engine": "torch", "device": "cpu", "batch_size": batch_size, "model_warmup": False}
    return AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=model, **arguments))


async def embed_images(model: str, output: str, batch_size: str, *shards: str) -> None:
    """All images at once, of which it makes its own batches."""
    images = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            images += [tar.extractfile(member).read() for member in tar]
    engine = engine_of(model, int(batch_size))
    async with engine:
        vectors, _ = await engine.image_embed(images=images)
    np.save(f"{output}.npy", np.array(vectors, np.float32))


async def time_texts(model: str, texts: str) -> None:
    """One text after the other."""
    found = []
    engine = engine_of(model, 1)
    async with engine:
        for text in json.loads(Path(texts).read_text()):
            started_s = time.perf_counter()
            await engine.embed(sentences=[text])
            found.append(time.perf_counter() - started_s)
    sys.stdout.write(f"{1000 * median(found)}\n")


if __name__ == "__main__":
    work, *rest = sys.argv[1:]
    asyncio.run({"images": embed_images, "text": time_texts}[work](*rest))
