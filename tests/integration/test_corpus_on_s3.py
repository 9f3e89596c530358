"""Corpora, images and shards at `s3://` addresses, over S3's own protocol and from the backend that users install."""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import httpx
import pytest
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.errors import ImageRefusedError, ImageUnavailableError
from anykey.index.jobs.embedding_job import EmbeddingReport, embed_corpus
from anykey.index.jobs.transfer import load_shards
from anykey.index.settings import EmbedSettings
from anykey.sources.errors import SourceError
from tests.corpora import Row, as_csv, as_parquet, as_shards, small_rows
from tests.factories import build_with, image_bytes, mixed_corpus
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.live_index import everything


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """A server with an empty bucket, which `s3://bucket` means meanwhile."""
    from moto.server import ThreadedMotoServer  # all of Amazon takes a while to load

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    httpx.post(f"{address}/moto-api/reset").raise_for_status()  # all servers of a process share their buckets
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.clear_instance_cache()
    files.mkdir("bucket")
    yield files
    files.clear_instance_cache()
    server.stop()
    gc.collect()


def uploaded(bucket: fsspec.AbstractFileSystem, corpus: Path) -> str:
    bucket.put(str(corpus.parent), "bucket/c", recursive=True)
    return f"s3://bucket/c/{corpus.name}"


def test_index_of_a_bucket_is_that_of_the_same_files_here(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    address = uploaded(bucket, corpus)

    build_with(address, tmp_path / "there")
    build_with(corpus, tmp_path / "here")

    assert everything(tmp_path / "there") == everything(tmp_path / "here")
    assert not build_with(address, tmp_path / "there").is_new
    encoder = FakeEncoder()
    bucket.pipe("bucket/c/images/5.png", image_bytes(size_px=16))
    assert build_with(address, tmp_path / "there", encoder).is_new
    assert encoder.batches == [1]


@pytest.mark.parametrize("write", [as_csv, as_parquet, as_shards])
def test_every_format_is_read_from_a_bucket(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, write: Callable[[Sequence[Row], Path], Path | str]
) -> None:
    (tmp_path / "c").mkdir()
    corpus = str(write(small_rows(), tmp_path / "c"))
    bucket.put(str(tmp_path / "c"), "bucket/c", recursive=True)

    build_with(corpus.replace(f"{tmp_path}/", "s3://bucket/"), tmp_path / "there")
    build_with(corpus, tmp_path / "here")

    assert everything(tmp_path / "there") == everything(tmp_path / "here")


def test_shards_in_a_bucket_are_made_once_and_loaded(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    settings = EmbedSettings(
        corpus=[uploaded(bucket, corpus)],
        checkpoint="unused",
        output="s3://bucket/out",
        shard_keys=4,
        vectors="float32",
    )

    for num_made in (3, 0):
        report = embed_corpus(settings, FakeEncoderSource(FakeEncoder()), console=Console(quiet=True))
        assert report == EmbeddingReport(9, 3, num_made, 0)

    names = ["bad_rows.jsonl", *(f"keys-0000{number}.parquet" for number in range(3))]
    assert sorted(bucket.ls("bucket/out", detail=False)) == [f"bucket/out/{name}" for name in names]
    assert load_shards(["s3://bucket/out"], tmp_path / "loaded", lambda count: None, "float32") == 9
    build_with(corpus, tmp_path / "built")
    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")


def test_what_is_not_in_a_bucket_is_said(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for name in ("bucket/none.jsonl", "nowhere/none.jsonl"):
        with pytest.raises(SourceError, match=f"s3://{name} does not exist"):
            build_with(f"s3://{name}", tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_images_in_a_bucket_are_referred_to_below_the_corpus_alone(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    corpora = [str(mixed_corpus(tmp_path / "c", 4)), str(as_shards(small_rows(), tmp_path / "c"))]
    bucket.put(str(tmp_path / "c"), "bucket/c", recursive=True)
    build_with(corpora, tmp_path / "here", images="reference")

    build_with([name.replace(f"{tmp_path}/", "s3://bucket/") for name in corpora], tmp_path / "i", images="reference")

    with FaissIndex.open(tmp_path / "here") as here, FaissIndex.open(tmp_path / "i") as there:
        keys = [stored.key for stored in here.scan() if stored.payload.num_images]
        assert [there.image(key) for key in keys] == [here.image(key) for key in keys]
    with (
        FaissIndex.open(tmp_path / "i", image_roots=["s3://bucket/other"]) as there,
        pytest.raises(ImageRefusedError),
    ):
        there.image(keys[0])
    bucket.rm("bucket/c", recursive=True)
    with FaissIndex.open(tmp_path / "i") as there, pytest.raises(ImageUnavailableError, match="no such file"):
        there.image(keys[0])
