"""Small things that many tests need, made the same way each time."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from anykey.index.jobs.build import BuildReport, build_index
from anykey.index.jobs.reembed import ReembedReport, reembed_index
from anykey.index.settings import BuildSettings, ReembedSettings
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.site import Site

Colour = tuple[int, int, int]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def image_bytes(colour: Colour = RED, size_px: int = 8, image_format: str = "PNG") -> bytes:
    """A square of one colour, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", (size_px, size_px), colour).save(buffer, image_format)
    return buffer.getvalue()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """A JSONL file; a row that is a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def build_settings(corpus: str | Path | list[Path] | list[str], output: Path, **changes: Any) -> BuildSettings:
    """Settings of a small build; the checkpoint is never read."""
    paths = list(map(str, corpus)) if isinstance(corpus, list) else [str(corpus)]
    return BuildSettings(corpus=paths, checkpoint="unused", output=output, **{"decode_threads": 2, **changes})


def build_with(
    corpus: str | Path | list[Path] | list[str], output: Path, encoder: FakeEncoder | None = None, **changes: Any
) -> BuildReport:
    """Builds an index with a fake encoder, without showing progress."""
    source = FakeEncoderSource(encoder)
    return build_index(build_settings(corpus, output, **changes), source, Console(quiet=True))


def reembed_with(index_dir: Path, encoder: FakeEncoder, **changes: Any) -> ReembedReport:
    """Embeds an index anew with a fake encoder, without showing progress."""
    settings = ReembedSettings(index=index_dir, checkpoint="unused", **{"decode_threads": 2, **changes})
    return reembed_index(settings, FakeEncoderSource(encoder), Console(quiet=True))


def mixed_corpus(directory: Path, num_keys: int = 9) -> Path:
    """A JSONL corpus that takes turns between text, image and fused keys; `key-0`, `key-1`, ...

    Every key is in the pool `even` or `odd`, and has its number in its metadata.
    """
    (directory / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_keys):
        row: dict[str, Any] = {"key": f"key-{number}", "metadata": {"number": number}}
        row["pool"] = "odd" if number % 2 else "even"
        if number % 3 != 1:
            row["text"] = " ".join("w" * (1 + number * step % 7) for step in range(1, 5))
        if number % 3:
            row["image"] = f"images/{number}.png"
            colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
            (directory / row["image"]).write_bytes(image_bytes(colour))
        rows.append(row)
    return write_jsonl(directory / "corpus.jsonl", rows)


def served_corpus(directory: Path, site: Site, num_keys: int = 9) -> Path:
    """A `mixed_corpus` whose images are pages of a web server: `/1.png`, `/2.png`, `/4.png`, ..."""
    corpus = mixed_corpus(directory, num_keys)
    rows = list(map(json.loads, corpus.read_text().splitlines()))
    for row in rows:
        if "image" in row:
            path = f"/{Path(row['image']).name}"
            site.pages[path] = (directory / row["image"]).read_bytes()
            site.tags[path] = '"1"'
            row["image"] = site.url(path)
    return write_jsonl(corpus, rows)


def break_data(parquet: Path) -> None:
    """Overwrites the rows of a Parquet file; its end, which describes it, stays as it is."""
    data = parquet.read_bytes()
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    parquet.write_bytes(data[:4] + b"?" * (len(data) - 4 - footer_bytes) + data[-footer_bytes:])
