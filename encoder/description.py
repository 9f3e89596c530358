"""What a checkpoint says of itself, read without torch."""

import json
import math
from pathlib import Path
from typing import Any

MANIFEST_NAME = "encoder.json"
FLOAT_BYTES = 4
SAFETENSORS = ".safetensors"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".npz")  # where there are no safetensors
MOST_HEADER_BYTES = 100 * 2**20  # that of a safetensors file, by its definition


def description_of(checkpoint: str | Path) -> dict[str, Any]:
    """What `encoder.json` says; nothing where there is none that can be read."""
    try:
        content = json.loads((Path(checkpoint) / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def described_fingerprint(checkpoint: str | Path, fusion: str | None, width: int | None) -> str | None:
    """The fingerprint in `encoder.json`; `None` if there is none to trust, or the settings change the vectors.

    Args:
        checkpoint: The directory.
        fusion: How features are to be added, if not as the checkpoint has it.
        width: How many numbers of a vector are to be kept, if not as the checkpoint has it.
    """
    content = description_of(checkpoint)
    if fusion not in (None, content.get("fusion")) or width is not None:
        return None
    value = content.get("fingerprint")
    return value if isinstance(value, str) else None


def weights_bytes_of(source: str) -> int | None:
    """Bytes that the weights of a source take in float32, in which they are loaded, by its files.

    Args:
        source: A checkpoint directory, a weights file, or `ARCHITECTURE@FILE`.

    Returns:
        The bytes; those of a file whose numbers cannot be counted without loading it are the file's own. `None` where
        there are no such files.
    """
    path = Path(source.rpartition("@")[2])
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        safe = [file for file in files if file.suffix == SAFETENSORS]
        found = safe or [file for file in files if file.suffix in OTHER_WEIGHTS]
        return sum(map(_in_float32, found)) if found else None
    except OSError:
        return None


def _in_float32(file: Path) -> int:
    """Bytes of a file's numbers in float32; of a file that is none of safetensors, or is damaged, its own."""
    if file.suffix != SAFETENSORS:
        return file.stat().st_size
    try:
        with file.open("rb") as content:
            num_bytes = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(min(num_bytes, MOST_HEADER_BYTES)))
        shapes = [facts["shape"] for name, facts in header.items() if name != "__metadata__"]
        return FLOAT_BYTES * sum(int(math.prod(shape)) for shape in shapes)
    except (ValueError, LookupError, TypeError, AttributeError):
        return file.stat().st_size
