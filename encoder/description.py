"""What a checkpoint directory says of itself, read without torch."""

import json
from pathlib import Path
from typing import Any

MANIFEST_NAME = "encoder.json"


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
