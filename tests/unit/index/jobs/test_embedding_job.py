"""An embedding job makes each shard once, and only those that are missing or would differ."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.errors import OutputExistsError, RemovalRefusedError
from anykey.index.jobs.embedding_job import EmbeddingReport, embed_corpus
from anykey.index.jobs.shards import read_encoder, read_shard
from anykey.index.jobs.transfer import export_shards, load_shards
from anykey.index.settings import EmbedSettings
from anykey.sources.errors import InvalidRowError, SourceError
from tests.factories import build_with, image_bytes, mixed_corpus, served_corpus, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.live_index import everything
from tests.site import Site


def embed(corpus: Path, output: Path | str, encoder: FakeEncoder | None = None, **changes: Any) -> EmbeddingReport:
    settings = {"corpus": [str(corpus)], "checkpoint": "unused", "output": str(output), "decode_threads": 2}
    chosen = EmbedSettings.model_validate({**settings, "shard_keys": 4, "vectors": "float32", **changes})
    return embed_corpus(chosen, FakeEncoderSource(encoder), console=Console(quiet=True))


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_loaded_shards_hold_what_a_build_would_store(tmp_path: Path, images: str) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)

    report = embed(corpus, tmp_path / "out", images=images)

    assert report == EmbeddingReport(num_keys=9, num_shards=3, num_made=3, num_bad_rows=0)
    roots = [str(tmp_path / "c")]
    assert load_shards([str(tmp_path / "out")], tmp_path / "loaded", lambda count: None, "float32", None, roots) == 9
    build_with(corpus, tmp_path / "built", images=images)
    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")


def test_second_run_makes_nothing_and_loads_no_encoder(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    encoder = FakeEncoder()

    assert embed(corpus, tmp_path / "out", encoder).num_made == 0
    assert encoder.batches == []


def test_only_shards_of_changed_keys_are_made_again(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    (tmp_path / "c" / "images" / "5.png").write_bytes(image_bytes(size_px=16))
    encoder = FakeEncoder()

    assert embed(corpus, tmp_path / "out", encoder).num_made == 1
    assert sum(encoder.batches) == 4


@pytest.mark.parametrize("change", [{"vectors": "float16"}, {"images": "reference"}, {"max_image_bytes": 10**6}])
def test_other_settings_or_another_encoder_make_all_again(tmp_path: Path, change: dict[str, Any]) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")

    assert embed(corpus, tmp_path / "out", **change).num_made == 3
    assert embed(corpus, tmp_path / "out", FakeEncoder(name="other"), **change).num_made == 3
    assert read_encoder(str(tmp_path / "out" / "keys-00002.parquet")).name == "other"


@pytest.mark.parametrize("damage", ["cut", "rubbish", "missing"])
def test_damaged_shards_are_made_again(tmp_path: Path, damage: str) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    path = tmp_path / "out" / "keys-00001.parquet"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-20] if damage == "cut" else b"rubbish")

    assert embed(corpus, tmp_path / "out").num_made == 1
    assert path.read_bytes() == data


def test_stopped_job_goes_on_with_the_shard_it_was_at(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    stopping = StoppingEncoder()
    with pytest.raises(Stop):
        embed(corpus, tmp_path / "out", stopping)
    assert names(tmp_path / "out") == ["keys-00000.parquet"]

    assert embed(corpus, tmp_path / "out").num_made == 2


def test_shards_of_a_corpus_that_became_shorter_are_deleted_and_others_files_kept(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    (tmp_path / "out" / "mine.parquet").write_text("mine")
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:3]))

    assert embed(corpus, tmp_path / "out") == EmbeddingReport(3, 1, 1, 0, num_removed=6)
    assert names(tmp_path / "out") == ["bad_rows.jsonl", "keys-00000.parquet", "mine.parquet"]


def loaded(output: Path, index: Path) -> list[str]:
    """The keys of an index that the shards are loaded into."""
    load_shards([str(output)], index, lambda count: None)
    with FaissIndex.open(index) as opened:
        return sorted(key.key for key in opened.scan())


@pytest.mark.parametrize("num_bytes", [30, 310])
def test_keys_stay_in_shards_where_the_corpus_cannot_be_read(tmp_path: Path, num_bytes: int) -> None:
    rows = [{"key": f"k{number:02}", "text": f"text {number}"} for number in range(12)]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    embed(corpus, tmp_path / "out")
    before = corpus.read_bytes()
    corpus.write_bytes(b'{"key": "new", "text": "first now"}\n' + before[:-num_bytes])

    for num_made in (None, 0):
        report = embed(corpus, tmp_path / "out")
        assert (report.is_any_unread, report.num_removed, report.num_keys) == (True, 0, 13)
        assert (report.num_kept > 0, report.num_made) == (True, report.num_made if num_made is None else 0)
    assert loaded(tmp_path / "out", tmp_path / "i") == [*(row["key"] for row in rows), "new"]
    corpus.write_bytes(before)
    report = embed(corpus, tmp_path / "out")

    assert (report.is_any_unread, report.num_kept, report.num_removed, report.num_keys) == (False, 0, 1, 12)
    assert names(tmp_path / "out") == ["bad_rows.jsonl", *(f"keys-0000{number}.parquet" for number in range(3))]


def test_keys_whose_images_are_away_stay_in_shards(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    (tmp_path / "c" / "images").rename(tmp_path / "away")

    report = embed(corpus, tmp_path / "out")
    assert (report.num_kept, report.num_removed, report.num_bad_rows, report.is_any_unread) == (6, 0, 6, False)
    assert len(loaded(tmp_path / "out", tmp_path / "i")) == 9
    (tmp_path / "away").rename(tmp_path / "c" / "images")

    assert embed(corpus, tmp_path / "out").num_kept == 0
    build_with(corpus, tmp_path / "built")
    load_shards([str(tmp_path / "out")], tmp_path / "loaded", lambda count: None, "float32")
    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")


def test_shards_are_not_emptied_by_a_corpus_that_was_cut_by_accident(tmp_path: Path) -> None:
    rows = [{"key": f"k{number}", "text": "a text"} for number in range(120)]
    embed(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "out", shard_keys=50)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    corpus = write_jsonl(tmp_path / "c.jsonl", rows[:100])

    with pytest.raises(RemovalRefusedError, match=r"20 of the 120 keys that earlier runs stored in .*out would go"):
        embed(corpus, tmp_path / "out", shard_keys=50)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    report = embed(corpus, tmp_path / "out", shard_keys=50, allow_removal=True)
    assert (report.num_removed, report.num_keys, report.num_made) == (20, 100, 0)


def test_another_encoder_does_not_drop_shards_that_cannot_be_made_again(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    os.truncate(corpus, corpus.stat().st_size - 10)
    other = FakeEncoder(name="other")

    with pytest.raises(RemovalRefusedError, match=r"1 of the 9 keys .* cannot be read now: 'key-8'; "):
        embed(corpus, tmp_path / "out", other)
    assert embed(corpus, tmp_path / "out", other, allow_removal=True).num_keys == 8


@pytest.mark.parametrize("shard_keys", [4, 100])
def test_shards_of_an_export_are_neither_replaced_nor_deleted(tmp_path: Path, shard_keys: int) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    build_with(corpus, tmp_path / "built")
    export_shards(tmp_path / "built", tmp_path / "out", lambda count: None, shard_keys=shard_keys)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "one.jsonl").write_text('{"key": "a", "text": "a"}\n')

    with pytest.raises(OutputExistsError, match=r"keys-00000.parquet was not made from a corpus, .* another folder"):
        embed(tmp_path / "one.jsonl", tmp_path / "out")

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_second_job_into_the_same_folder_is_refused_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    refused: list[str] = []

    class Meddling(FakeEncoder):
        def encode_prepared(self, *arguments: Any, **settings: Any) -> Any:
            with pytest.raises(OutputExistsError, match=rf"out is being written to by .*\(process {os.getpid()}\)"):
                embed(corpus, tmp_path / "out")
            refused.append("refused")
            return super().encode_prepared(*arguments, **settings)

    assert embed(corpus, tmp_path / "out", Meddling()).num_keys == 9
    assert len(refused) > 0
    assert embed(corpus, tmp_path / "out").num_made == 0


def test_bad_rows_are_listed_also_those_of_shards_that_were_kept(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    rows = [{"key": "a", "text": "x"}, {"key": "b", "image": "bad.png"}, {"text": "no key"}, {"key": "c", "text": "y"}]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)

    for num_made in (1, 0):
        assert embed(corpus, tmp_path / "out") == EmbeddingReport(2, 1, num_made, 2)
        listed = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
        assert [row["where"].rpartition(":")[2] for row in listed] == ["3", "2"]
    (batch,) = read_shard(str(tmp_path / "out" / "keys-00000.parquet"))
    assert [record.key for record in batch] == ["a", "c"]
    with pytest.raises(InvalidRowError, match=r"c\.jsonl:3"):
        embed(corpus, tmp_path / "strict", strict=True)


def test_strict_job_leaves_no_shard_with_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "a", "text": "x"}, {"key": "b", "image": "bad.png"}])

    with pytest.raises(InvalidRowError, match=r"bad\.png"):
        embed(corpus, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_corpus_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "no key"}])
    with pytest.raises(SourceError, match=r"nothing to embed in .*no usable row, 1 bad rows"):
        embed(corpus, tmp_path / "out")


class Stop(BaseException):
    """Ends a job as a signal would."""


class StoppingEncoder(FakeEncoder):
    """Embeds one batch and is stopped in the second."""

    def encode_prepared(self, prepared: Any) -> Any:
        if self.batches:
            raise Stop
        return super().encode_prepared(prepared)


def test_row_that_fails_moves_no_other_to_another_shard(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    embed(corpus, tmp_path / "out")
    rows = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join([rows[0], '{"text": "no key"}\n', *rows[2:]]))
    encoder = FakeEncoder()

    assert embed(corpus, tmp_path / "out", encoder) == EmbeddingReport(8, 3, 1, 1, num_removed=1)
    assert sum(encoder.batches) == 3


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_image_that_was_away_is_tried_again_and_nothing_else(tmp_path: Path, site: Site, images: str) -> None:
    corpus = served_corpus(tmp_path / "c", site)
    site.unread.add("/5.png")
    first = embed(corpus, tmp_path / "out", images=images)
    assert (first.num_made, first.num_bad_rows) == (3, 1)

    encoder = FakeEncoder()
    assert embed(corpus, tmp_path / "out", encoder, images=images) == EmbeddingReport(8, 3, 0, 1)
    assert encoder.batches == []
    site.unread.clear()
    assert embed(corpus, tmp_path / "out", encoder, images=images) == EmbeddingReport(9, 3, 1, 0)
    assert encoder.batches == [1]
    assert embed(corpus, tmp_path / "out", images=images).num_made == 0
    roots = [site.url("/")]
    load_shards([str(tmp_path / "out")], tmp_path / "loaded", lambda count: None, "float32", None, roots)
    options = {"image_root": roots} if images == "reference" else {}
    assert build_with(corpus, tmp_path / "built", images=images, **options).bad_rows == []
    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")
