"""An embedding job loses nothing of the shards that it finds because it cannot read them."""

import io
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from anykey.index.errors import InvalidShardError, RemovalRefusedError
from anykey.index.jobs.earlier_shards import DIGEST, keep_unread, location_of
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.shards import read_shard, write_shard
from anykey.index.jobs.transfer import export_shards, load_shards
from anykey.index.key_index import NewKey
from anykey.index.settings import EmbedSettings
from anykey.index.store.new_keys import to_record
from anykey.sources.errors import UnreadableStretchError
from tests.factories import build_with, mixed_corpus, served_corpus, write_jsonl
from tests.fakes import FakeEncoder
from tests.live_index import ENCODER, WIDTH, everything, unit_vectors
from tests.site import Site
from tests.unit.index.jobs.test_embedding_job import Stop, StoppingEncoder, embed, loaded


class _LosingFiles(MemoryFileSystem):
    """Files of which some cannot be read now, from their beginning on or from their second read on."""

    protocol = "losing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    lost: ClassVar[dict[str, bool]] = {}  # whether they are opened nevertheless

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('losing://').strip('/')}".rstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb" or path.rpartition("/")[2] not in self.lost:
            return super()._open(path, mode, **options)
        if not self.lost[path.rpartition("/")[2]]:
            raise PermissionError("access denied")
        return _LostFile(super()._open(path, mode, **options).getvalue())


class _LostFile(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise PermissionError("access denied")


@pytest.fixture
def losing(tmp_path: Path) -> Iterator[str]:
    fsspec.register_implementation("losing", _LosingFiles, clobber=True)
    yield f"losing://{tmp_path.name}/out"
    _LosingFiles.store.clear()
    _LosingFiles.lost.clear()
    _LosingFiles.pseudo_dirs[:] = [""]


def _held(losing: str) -> dict[str, bytes]:
    files, folder = fsspec.core.url_to_fs(losing)
    return {name: files.store[name].getvalue() for name in files.find(folder)}


@pytest.mark.parametrize("is_opened", [False, True])
@pytest.mark.parametrize("is_much", [False, True])
def test_shards_that_cannot_be_read_now_are_neither_deleted_nor_replaced(
    tmp_path: Path, losing: str, is_opened: bool, is_much: bool
) -> None:
    rows = [{"key": f"k{number}", "text": "a text"} for number in range(130 if is_much else 40)]
    embed(write_jsonl(tmp_path / "c.jsonl", rows), losing, shard_keys=10)
    before = _held(losing)
    corpus = write_jsonl(tmp_path / "c.jsonl", rows[:10])
    _LosingFiles.lost.update({f"keys-{number:05}.parquet": is_opened for number in range(1, 13)})

    with pytest.raises(InvalidShardError, match=r"keys-00001.parquet is no .* can be read: .*access denied"):
        embed(corpus, losing, shard_keys=10)
    assert _held(losing) == before


def test_exported_shard_that_cannot_be_read_now_is_not_deleted(tmp_path: Path, losing: str) -> None:
    build_with(mixed_corpus(tmp_path / "c", 9), tmp_path / "i")
    export_shards(tmp_path / "i", tmp_path / "exported", lambda count: None)
    files, folder = fsspec.core.url_to_fs(losing)
    files.pipe(f"{folder}/keys-00007.parquet", (tmp_path / "exported" / "keys-00000.parquet").read_bytes())
    before = _held(losing)
    _LosingFiles.lost["keys-00007.parquet"] = True

    with pytest.raises(InvalidShardError, match="access denied"):
        embed(write_jsonl(tmp_path / "one.jsonl", [{"key": "a", "text": "a"}]), losing)
    assert _held(losing) == before


@pytest.mark.parametrize("damage", ["cut", "page"])
def test_damaged_shard_goes_only_when_told_where_the_corpus_has_nothing_to_take_its_place(
    tmp_path: Path, damage: str
) -> None:
    rows = [{"key": f"k{number}", "text": "a text"} for number in range(9)]
    embed(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "out")
    path = tmp_path / "out" / "keys-00001.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-20] if damage == "cut" else data[:4] + bytes([255]) * 36 + data[40:])
    corpus = write_jsonl(tmp_path / "c.jsonl", rows[:3])

    with pytest.raises(
        RemovalRefusedError, match=r"keys-00001.parquet is damaged .* which keys go with it; use --allow"
    ):
        embed(corpus, tmp_path / "out")
    assert path.exists()
    assert embed(corpus, tmp_path / "out", allow_removal=True).num_keys == 3
    assert not path.exists()


def test_keys_whose_images_can_be_seen_and_not_read_stay_in_a_shard_that_is_made_again(
    tmp_path: Path, site: Site
) -> None:
    corpus = served_corpus(tmp_path / "c", site, 9)
    embed(corpus, tmp_path / "out")
    corpus.write_text(corpus.read_text().replace("key-4", "other"))
    site.unread.add("/5.png")

    report = embed(corpus, tmp_path / "out")
    assert (report.num_keys, report.num_made, report.num_kept, report.num_removed) == (9, 1, 1, 1)
    again = embed(corpus, tmp_path / "out")
    assert (again.num_keys, again.num_made, again.num_kept, again.num_removed) == (9, 0, 1, 0)
    assert "key-5" in loaded(tmp_path / "out", tmp_path / "kept")
    site.unread.clear()
    encoder = FakeEncoder()
    last = embed(corpus, tmp_path / "out", encoder)

    assert (last.num_keys, last.num_made, last.num_kept, encoder.batches) == (9, 1, 0, [1])
    build_with(corpus, tmp_path / "built")
    load_shards([str(tmp_path / "out")], tmp_path / "loaded", lambda count: None, "float32")
    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")


def test_key_whose_image_cannot_be_read_is_not_lost_to_another_encoder(tmp_path: Path, site: Site) -> None:
    corpus = served_corpus(tmp_path / "c", site, 3)
    embed(corpus, tmp_path / "out")
    before = (tmp_path / "out" / "keys-00000.parquet").read_bytes()
    site.unread.add("/1.png")
    other = FakeEncoder(name="other")

    with pytest.raises(RemovalRefusedError, match=r"1 of the 3 keys .* cannot be read now: 'key-1'; "):
        embed(corpus, tmp_path / "out", other)
    assert (tmp_path / "out" / "keys-00000.parquet").read_bytes() == before
    assert embed(corpus, tmp_path / "out", other, allow_removal=True).num_keys == 2


def with_a_row_before_all(corpus: Path) -> Path:
    """A corpus whose keys have moved: of `served_corpus`, two with images into another block of four."""
    return write_jsonl(corpus, ['{"key": "first", "text": "new"}', *corpus.read_text().splitlines()])


@pytest.mark.parametrize("is_stopped", [False, True])
def test_key_that_moved_to_another_shard_is_not_lost_where_its_image_cannot_be_read(
    tmp_path: Path, site: Site, is_stopped: bool
) -> None:
    corpus = served_corpus(tmp_path / "c", site, 12)
    embed(corpus, tmp_path / "out")
    before = vectors_of(tmp_path / "out")
    with_a_row_before_all(corpus)
    site.unread.update(["/7.png", "/11.png"])
    if is_stopped:
        with pytest.raises(Stop):
            embed(corpus, tmp_path / "out", StoppingEncoder())

    report = embed(corpus, tmp_path / "out")
    assert (report.num_keys, report.num_kept, report.num_removed) == (13, 2, 0)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        f"keys-0000{number}.parquet" for number in range(4)
    ]
    after = vectors_of(tmp_path / "out")
    assert {key: vector for key, vector in after.items() if key != "first"} == before
    site.unread.clear()
    encoder = FakeEncoder()

    assert embed(corpus, tmp_path / "out", encoder).num_kept == 0
    assert encoder.batches == [1, 1]
    assert vectors_of(tmp_path / "out") == after


def test_key_that_moved_and_cannot_be_embedded_is_not_lost_to_another_encoder(tmp_path: Path, site: Site) -> None:
    corpus = served_corpus(tmp_path / "c", site, 9)
    embed(corpus, tmp_path / "out")
    with_a_row_before_all(corpus)
    site.unread.add("/7.png")
    other = FakeEncoder(name="other")

    for _ in range(2):
        with pytest.raises(RemovalRefusedError, match=r"cannot be read now: 'key-7'; "):
            embed(corpus, tmp_path / "out", other)
    assert embed(corpus, tmp_path / "out", other, allow_removal=True).num_keys == 9


def vectors_of(output: Path) -> dict[str, bytes]:
    """The vectors in some shards by key, each key once."""
    batches = chain.from_iterable(read_shard(str(path)) for path in output.glob("*.parquet"))
    records = list(chain.from_iterable(batches))
    found = {record.key: record.vector_D.tobytes() for record in records}
    assert len(found) == len(records)
    return found


def test_shards_are_found_in_a_folder_with_brackets_in_its_name(tmp_path: Path) -> None:
    rows = [{"key": f"k{number}", "text": "a text"} for number in range(9)]
    output = tmp_path / "out[1]"
    embed(write_jsonl(tmp_path / "c.jsonl", rows), output)

    assert embed(tmp_path / "c.jsonl", output).num_made == 0
    assert len(loaded(output, tmp_path / "i")) == 9
    assert embed(write_jsonl(tmp_path / "c.jsonl", rows[:1]), output).num_removed == 8


@pytest.mark.slow
def test_keys_that_stay_are_not_all_held_in_memory(tmp_path: Path) -> None:
    """Of a corpus with a stretch that cannot be read now, any number of keys of earlier shards may stay."""
    peaks = []
    for num_shards in (4, 16):
        output = str(tmp_path / f"{num_shards}")
        Path(output).mkdir()
        names = [f"keys-{number:05}.parquet" for number in range(num_shards)]
        for number, name in enumerate(names):
            vectors_ND = unit_vectors(2_000, seed=number)
            records = (
                to_record(NewKey(f"{number}/{n:0>60}", vector_D, "text"), WIDTH)
                for n, vector_D in enumerate(vectors_ND)
            )
            write_shard(location_of(output, name), records, ENCODER, "float32", {DIGEST: "of another block"})
        settings = EmbedSettings(corpus=["c.jsonl"], checkpoint="none", output=output)
        with closing(Plan(tmp_path / "plan.sqlite", settings.images)) as plan:
            plan.add_bad_row(UnreadableStretchError("c.jsonl", "the line breaks"))
            plan.end_reading()
            tracemalloc.start()
            try:
                kept = keep_unread(names, (), plan, ENCODER.fingerprint, settings)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        assert (kept.num_keys, kept.num_removed) == (2_000 * num_shards, 0)
        (told,) = kept.names
        assert sum(len(batch) for batch in read_shard(location_of(output, told))) == 2_000 * num_shards
    assert peaks[1] < 1.2 * peaks[0]
