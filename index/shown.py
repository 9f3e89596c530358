"""What `anykey-index info` shows of an index: names and values, line by line."""

from collections.abc import Sequence
from typing import Any

from anykey.index.key_index import IndexInfo
from anykey.index.store.manifest import EncoderFacts, Manifest


def count_lines(facts: IndexInfo) -> list[tuple[str, str]]:
    """How many keys there are, of what kind and where."""
    pools = ", ".join(f"{pool} ({count:,})" for pool, count in facts.pools.items())
    modalities = ", ".join(f"{count:,} {modality}" for modality, count in facts.modalities.items() if count)
    return [("keys", f"{facts.num_keys:,} ({modalities})"), ("pools", pools or "none")]


def encoder_lines(encoder: EncoderFacts) -> list[tuple[str, str]]:
    """Which encoder made the vectors."""
    return [
        ("encoder", f"{encoder.name}, width {encoder.width}, {encoder.fusion} fusion"),
        ("fingerprint", encoder.fingerprint),
        ("computed in", ", ".join(encoder.computed_in) or "unknown"),
    ]


def fact_lines(facts: IndexInfo, manifest: Manifest, versions: Sequence[Manifest]) -> list[tuple[str, str]]:
    """What an index directory is now, and what its published version says of itself."""
    kept = [f"{version.version} ({version.created_at}, {version.num_keys:,} keys)" for version in versions]
    size_mib = sum(file.size_bytes for file in manifest.files.values()) / 2**20
    return [
        *count_lines(facts),
        ("version", f"{manifest.version}, published {manifest.created_at}, {size_mib:,.1f} MiB"),
        ("kept", ", ".join(kept)),
        ("changes", f"{facts.details['num_unfolded']:,} since then, of {facts.details['seq']:,}"),
        *_trouble(facts.details),
        ("vectors", facts.details["vectors"]),
        ("bad rows", f"{manifest.num_bad_rows:,}"),
        *([("image roots", ", ".join(facts.details["image_roots"]))] if facts.details["image_roots"] else []),
        *encoder_lines(manifest.encoder),
        ("calibration", manifest.options.calibrate),
        ("corpus", ", ".join(manifest.corpus) or "none"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())),
    ]


def _trouble(details: dict[str, Any]) -> list[tuple[str, str]]:
    """What somebody should do something about."""
    lines = []
    if (failure := details["fold_failure"]) is not None:
        times = f"{failure['num_failures']} times, last at {failure['at']}: {failure['reason']}"
        lines.append(("not folded", f"{times}; next try at {failure['next_try_at']}"))
    if details["num_damaged"]:
        lines.append(("damaged", f"{details['num_damaged']:,} keys, which `anykey-index verify` names"))
    return lines
