"""Checksums that tell a damaged shard: one of each row, in a column of its own, and one of what the footer says.

Parquet's own checksums are of pages alone; what describes the pages, and is read before them, has none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from anykey.index.store.records import checksum_of

SUM_COLUMN = "crc32"
ENCODER_FIELD, FACTS_FIELD, SUM_FIELD = b"anykey.encoder", b"anykey.facts", b"anykey.crc32"


def row_sum(row: Mapping[str, Any]) -> int:
    """CRC-32 of a row, as Arrow gives it; a vector's float16 numbers count as the float32 ones they become."""
    images = row["images"] or ()
    parts = [image["data"] for image in images]
    sizes = [None if part is None else len(part) for part in parts]
    named = [[image["media_type"], image["path"]] for image in images]
    facts = [row["key"], row["text"], row["metadata"], list(row["pools"] or ()), named, sizes]
    vector = np.asarray(row["vector"], "<f4").tobytes()
    return checksum_of(facts, b"".join([vector, *(part or b"" for part in parts)]))


def footer_sum(footer: Mapping[bytes, bytes], num_keys: int) -> bytes:
    """What a footer says under `SUM_FIELD`: a CRC-32 of the number of keys, and of all else that it says of them."""
    encoder, facts = footer.get(ENCODER_FIELD, b""), footer.get(FACTS_FIELD, b"")
    return str(checksum_of([num_keys, len(encoder), len(facts)], encoder + facts)).encode()


def is_footer_sound(footer: Mapping[bytes, bytes], num_keys: int, has_row_sums: bool) -> bool:
    """Whether a footer says what was written; true for one of a release that wrote no checksums.

    Args:
        footer: What it says.
        num_keys: How many rows there are by it.
        has_row_sums: Whether there are checksums of rows: there are both, or neither.
    """
    if SUM_FIELD not in footer:
        return not has_row_sums
    return has_row_sums and footer[SUM_FIELD] == footer_sum(footer, num_keys)
