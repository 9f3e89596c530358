"""From a complete store to a published version: FAISS file, list of bad rows, manifest.

Shape legend: B = batch, D = width.
"""

import json
import platform
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np

from index.errors import IndexCorruptError, InvalidRowError
from index.locations import without_secrets
from index.manifest import FORMAT_VERSION, EncoderFacts, Manifest, file_facts
from index.plan import Plan
from index.settings import BuildSettings
from index.store import Store
from index.versions import BAD_ROWS_NAME, STORE_NAME, VECTORS_NAME, IndexDirectory

ADD_BATCH_SIZE = 4096


def publish_store(store: Store, plan: Plan, directory: IndexDirectory, settings: BuildSettings) -> Manifest:
    """Makes the store in `building/` the next published version.

    Args:
        store: The store, complete and with its rows numbered; closed afterwards.
        plan: The plan it follows; deleted afterwards.
        directory: Where the index is.
        settings: What the version was built with.

    Returns:
        The version's manifest.

    Raises:
        OSError: the disk is full or not writable; the version that was published stays.
    """
    building = directory.building_dir
    bad_rows = plan.bad_rows()
    _write_bad_rows(bad_rows, building / BAD_ROWS_NAME)
    meta = store.meta
    encoder = EncoderFacts(
        name=meta["name"],
        fingerprint=meta["fingerprint"],
        width=meta["width"],
        fusion=meta["fusion"],
        computed_in=json.loads(meta.get("computed_in", "[]")),
    )
    _write_vectors(store, encoder.width, building / VECTORS_NAME)
    counts = {
        "num_keys": store.num_keys(),
        "modalities": store.count_by_modality(),
        "pools": store.count_by_pool(),
        "num_bad_rows": len(bad_rows),
        "seq": store.seq,
    }
    store.finish()
    plan.close()
    manifest = Manifest.model_validate(
        {
            "format_version": FORMAT_VERSION,
            "version": directory.next_name(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "encoder": encoder,
            **counts,
            "files": {name: file_facts(building / name) for name in (STORE_NAME, VECTORS_NAME, BAD_ROWS_NAME)},
            "corpus": list(map(without_secrets, settings.corpus)),
            "settings": settings.model_dump(mode="json", exclude={"corpus", "config"}),
            "libraries": {
                "faiss": faiss.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "sqlite": sqlite3.sqlite_version,
            },
        }
    )
    directory.publish(manifest)
    return manifest


def read_bad_rows(version_dir: Path) -> list[InvalidRowError]:
    """The bad rows that a version's `bad_rows.jsonl` lists.

    Raises:
        IndexCorruptError: the file is missing or damaged.
    """
    path = version_dir / BAD_ROWS_NAME
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [InvalidRowError(row["where"], row["reason"], row["key"]) for row in rows]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IndexCorruptError(path, str(error)) from error


def _write_bad_rows(rows: list[InvalidRowError], path: Path) -> None:
    lines = (json.dumps({"where": row.where, "key": row.key, "reason": row.reason}) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_vectors(store: Store, width: int, path: Path) -> None:
    """The derived FAISS file: row r of the store is vector r of the file."""
    index = faiss.IndexFlatIP(width)
    for vectors_BD in store.vectors(ADD_BATCH_SIZE):
        index.add(vectors_BD)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {error}") from error
