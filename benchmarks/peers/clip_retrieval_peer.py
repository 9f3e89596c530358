"""Prints the median milliseconds of a single text by clip-retrieval; run in its own environment.

clip_retrieval_peer.py MODEL TEXTS
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from all_clip import load_clip


def main(name: str, texts: str) -> None:
    """As its back end embeds the text of a query."""
    model, _, tokenizer = load_clip(name, device="cpu", use_jit=False)
    found = []
    with torch.no_grad():
        for text in json.loads(Path(texts).read_text()):
            started_s = time.perf_counter()
            features_1D = model.encode_text(tokenizer([text]))
            features_1D /= features_1D.norm(dim=-1, keepdim=True)
            features_1D.cpu().numpy()
            found.append(time.perf_counter() - started_s)
    sys.stdout.write(f"{1000 * median(found)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
