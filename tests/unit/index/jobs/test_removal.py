"""Keys that a build would remove: told, refused where it looks like an accident, and tried without doing anything."""

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.errors import LiveKeysError, RemovalRefusedError
from anykey.index.jobs.build import preview_build
from anykey.index.jobs.outlook import Outlook
from anykey.sources.errors import InvalidRowError, SourceError
from tests.factories import build_settings, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.unit.index.jobs.test_build import keys_of
from tests.unit.index.jobs.test_published import change, live


def texts(path: Path, num_keys: int, first: int = 0) -> Path:
    rows = ({"key": f"k{number}", "text": "w" * (1 + number % 7)} for number in range(first, first + num_keys))
    return write_jsonl(path, rows)


def preview(corpus: Path | list[Path], output: Path, **changes: object) -> tuple[Outlook, int]:
    """What a build would do, and how often the encoder was asked for."""
    source = FakeEncoderSource()
    return preview_build(build_settings(corpus, output, **changes), source, Console(quiet=True)), source.num_loads


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Everything below a folder, with sizes and times."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


def test_corpus_that_was_cut_by_accident_removes_nothing(tmp_path: Path) -> None:
    build_with(texts(tmp_path / "c.jsonl", 500), tmp_path / "i")
    encoder = FakeEncoder()
    corpus = texts(tmp_path / "c.jsonl", 11, first=490)

    with pytest.raises(RemovalRefusedError) as caught:
        build_with(corpus, tmp_path / "i", encoder)
    assert str(caught.value).startswith(
        f"490 of the 500 keys that earlier runs stored in {tmp_path}/i would go, as the corpus has no usable row of "
        "them: 'k0', 'k1', 'k2', 'k3', 'k4' and more; mend the corpus, or use --allow-removal"
    )
    assert (encoder.batches, len(keys_of(tmp_path / "i"))) == ([], 500)

    report = build_with(corpus, tmp_path / "i", allow_removal=True)
    assert (report.num_removed, report.manifest.num_keys, report.num_embedded) == (490, 11, 1)


def test_file_of_a_pattern_that_vanished_removes_nothing(tmp_path: Path) -> None:
    for number in range(4):
        texts(tmp_path / f"{number}.jsonl", 50, first=50 * number)
    build_with(f"{tmp_path}/*.jsonl", tmp_path / "i")
    (tmp_path / "2.jsonl").unlink()

    with pytest.raises(RemovalRefusedError, match="50 of the 200 keys"):
        build_with(f"{tmp_path}/*.jsonl", tmp_path / "i")


@pytest.mark.parametrize(("num_keys", "num_left"), [(100, 1), (200, 180)])
def test_few_keys_go_unasked(tmp_path: Path, num_keys: int, num_left: int) -> None:
    build_with(texts(tmp_path / "c.jsonl", num_keys), tmp_path / "i")

    report = build_with(texts(tmp_path / "c.jsonl", num_left), tmp_path / "i")

    assert (report.num_removed, report.manifest.num_keys) == (num_keys - num_left, num_left)


def test_live_keys_do_not_count(tmp_path: Path) -> None:
    """Neither do they go, nor do they make others a smaller share."""
    build_with(texts(tmp_path / "c.jsonl", 110), tmp_path / "i")
    change(tmp_path / "i", *(live(f"live{number}") for number in range(200)))

    with pytest.raises(RemovalRefusedError, match="20 of the 110 keys"):
        build_with(texts(tmp_path / "c.jsonl", 90), tmp_path / "i")


def test_images_that_went_bad_count_too(tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"{number}.png").write_bytes(image_bytes((number, 9, 9)))
    corpus = write_jsonl(tmp_path / "c.jsonl", ({"key": f"k{n}", "image": f"{n}.png"} for n in range(120)))
    build_with(corpus, tmp_path / "i")
    for number in range(30):
        os.truncate(tmp_path / f"{number}.png", 0)

    with pytest.raises(RemovalRefusedError, match="30 of the 120 keys"):
        build_with(corpus, tmp_path / "i")
    assert len(keys_of(tmp_path / "i")) == 120
    report = build_with(corpus, tmp_path / "i", allow_removal=True)
    assert (report.num_removed, report.manifest.num_keys) == (30, 90)


def test_another_encoder_drops_no_keys_unasked(tmp_path: Path) -> None:
    build_with(texts(tmp_path / "c.jsonl", 150), tmp_path / "i")
    corpus, other = texts(tmp_path / "c.jsonl", 100), FakeEncoder(name="other")

    with pytest.raises(RemovalRefusedError, match="50 of the 150 keys"):
        build_with(corpus, tmp_path / "i", other)
    assert len(keys_of(tmp_path / "i")) == 150
    assert build_with(corpus, tmp_path / "i", other, allow_removal=True).num_removed == 50


def test_another_encoder_drops_no_key_whose_image_went_away_meanwhile(tmp_path: Path) -> None:
    """Neither a built one nor one that was stored live, of which the corpus has a row."""
    corpus = mixed_corpus(tmp_path / "c")
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("key-1"))
    (tmp_path / "kept").mkdir()

    class Meddling(FakeEncoder):
        def prepare(self, *arguments: Any, **options: Any) -> Any:
            for path in (tmp_path / "c" / "images").iterdir():
                path.rename(tmp_path / "kept" / path.name)
            return super().prepare(*arguments, **options)

    with pytest.raises(RemovalRefusedError, match=r"^6 of the 8 keys .* cannot be read now"):
        build_with(corpus, tmp_path / "i", Meddling(name="other"), decode_threads=1)
    assert len(keys_of(tmp_path / "i")) == 9
    for path in (tmp_path / "kept").iterdir():
        path.rename(tmp_path / "c" / "images" / path.name)
    assert build_with(corpus, tmp_path / "i", FakeEncoder(name="other")).manifest.num_keys == 9


def test_dry_run_tells_and_changes_nothing(tmp_path: Path) -> None:
    texts(tmp_path / "c.jsonl", 12)
    build_with(tmp_path / "c.jsonl", tmp_path / "i")
    change(tmp_path / "i", live("k12"), gone=["k11"])
    rows = [{"key": "k0", "text": "changed"}, {"key": "k1", "image": "missing.png"}]
    rows += [{"key": f"k{number}", "text": "w" * (1 + number)} for number in (2, 3, 11, 12, 13)]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    before = state_of(tmp_path)

    outlook, num_loads = preview(corpus, tmp_path / "i")

    assert (outlook.num_published, outlook.num_new, outlook.num_changed, outlook.num_live) == (11, 1, 1, 1)
    assert (outlook.num_unreachable, outlook.num_deleted, outlook.num_unread) == (1, 1, 0)
    assert (outlook.gone.count, outlook.gone.names) == (7, [f"k{number}" for number in (4, 5, 6, 7, 8)])
    assert [row.key for row in outlook.bad_rows] == ["k1"]
    assert (num_loads, state_of(tmp_path)) == (0, before)
    report = build_with(corpus, tmp_path / "i")
    assert (report.num_removed, report.num_embedded, report.manifest.num_keys) == (7, 3, 6)


def test_dry_run_of_an_unread_corpus_tells_what_stays(tmp_path: Path) -> None:
    corpus = texts(tmp_path / "c.jsonl", 12)
    build_with(corpus, tmp_path / "i")
    os.truncate(corpus, corpus.stat().st_size // 2)

    outlook, _ = preview(corpus, tmp_path / "i")

    assert (outlook.is_any_unread, outlook.gone.count, outlook.num_unread) == (True, 0, 6)


def test_dry_run_makes_no_folder(tmp_path: Path) -> None:
    outlook, num_loads = preview(texts(tmp_path / "c.jsonl", 3), tmp_path / "i")

    assert (outlook.num_new, num_loads, (tmp_path / "i").exists()) == (3, 0, False)
    with pytest.raises(SourceError, match="does not exist"):
        preview(tmp_path / "none.jsonl", tmp_path / "i")


def test_dry_run_is_refused_as_the_build_would_be(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("live"))
    source = FakeEncoderSource(FakeEncoder(name="other"))

    with pytest.raises(LiveKeysError, match=r"1 keys of .* were stored live"):
        preview_build(build_settings(corpus, tmp_path / "i"), source, Console(quiet=True))


def test_dry_run_is_as_strict_as_the_build(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "a", "image": "bad.png"}, {"key": "b", "text": "t"}])
    build_with(corpus, tmp_path / "i")

    with pytest.raises(InvalidRowError, match=r"c\.jsonl:1"):
        build_with(corpus, tmp_path / "i", strict=True)
    with pytest.raises(InvalidRowError, match=r"c\.jsonl:1"):
        preview(corpus, tmp_path / "i", strict=True)
    assert len(preview(corpus, tmp_path / "i")[0].bad_rows) == 1


def test_dry_run_goes_beside_a_writer(tmp_path: Path) -> None:
    corpus = texts(tmp_path / "c.jsonl", 3)
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.upsert([live("live")])
        before = [entry for entry in state_of(tmp_path) if "-shm" not in entry[0]]

        assert preview(corpus, tmp_path / "i")[0].num_published == 3

        assert [entry for entry in state_of(tmp_path) if "-shm" not in entry[0]] == before
