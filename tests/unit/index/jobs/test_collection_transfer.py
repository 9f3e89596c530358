"""Shards go into a Milvus collection as they go into an index directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from anykey.index import FaissIndex, MilvusIndex
from anykey.index.__main__ import main
from anykey.index.errors import (
    EncoderMismatchError,
    ImageRefusedError,
    ImageUnavailableError,
    IndexNotFoundError,
    InvalidShardError,
)
from anykey.index.filtering.conditions import Range
from anykey.index.jobs.collection_transfer import load_collection
from anykey.index.jobs.shards import write_shard
from anykey.index.jobs.transfer import export_shards, load_shards
from anykey.index.key_index import KeyIndex, Scope
from anykey.index.milvus.address import CollectionAddress
from anykey.index.store.new_keys import to_record
from tests.engines import MILVUS_URI, needs_milvus
from tests.factories import break_data, build_with, mixed_corpus
from tests.fakes import FakeEncoder
from tests.live_index import ENCODER, WIDTH, make_index, new_keys, unit_vectors

pytestmark = [needs_milvus, pytest.mark.skipif(MILVUS_URI is not None, reason="makes files of Milvus Lite")]
NUM_KEYS = 30


def ignore(count: int) -> None:
    """Takes progress."""


@pytest.fixture
def shards(tmp_path: Path) -> str:
    make_index(tmp_path / "i", new_keys(NUM_KEYS))
    export_shards(tmp_path / "i", tmp_path / "shards", ignore, shard_keys=12)
    return str(tmp_path / "shards")


@pytest.fixture
def address(tmp_path: Path) -> CollectionAddress:
    return CollectionAddress(str(tmp_path / "keys.db"), "products")


def answers(index: KeyIndex) -> list[object]:
    """What an index says of all that went in."""
    scopes = [Scope(), Scope(pool="odd"), Scope(condition=Range(("number",), lt=9))]
    found: list[object] = list(index.scan())
    for scope in scopes:
        results = index.search(unit_vectors(4, seed=5), 5, scope)
        found += [[(hit.key, round(hit.score, 4), hit.payload) for hit in hits] for hits in results]
        found.append(index.count(scope))
    return [*found, index.info().encoder, index.info().pools, index.info().modalities]


def test_collection_answers_as_an_index_directory_does(tmp_path: Path, shards: str, address: CollectionAddress) -> None:
    load_shards([shards], tmp_path / "loaded", ignore)
    told: list[int] = []

    images_dir = str(tmp_path / "images")
    assert load_collection([shards], address, told.append, images_dir=images_dir) == sum(told) == NUM_KEYS
    assert load_collection([shards], address, ignore) == NUM_KEYS  # again, as after a stop

    with (
        FaissIndex.open(tmp_path / "loaded") as directory,
        MilvusIndex.open(address.uri, address.collection) as collection,
    ):
        assert answers(collection) == answers(directory)
        for stored in directory.scan():
            for position in range(stored.payload.num_images):
                assert collection.image(stored.key, position) == directory.image(stored.key, position)


def test_images_that_shards_refer_to_are_fetched_where_they_are_kept(
    tmp_path: Path, address: CollectionAddress
) -> None:
    build_with(mixed_corpus(tmp_path / "c", 6), tmp_path / "i", images="reference")
    export_shards(tmp_path / "i", tmp_path / "shards", ignore)
    image = tmp_path / "c" / "images" / "1.png"

    with pytest.raises(ImageRefusedError, match=r"key 'key-1' refers to an image at .*1.png, .* with --image-root"):
        load_collection([str(tmp_path / "shards")], address, ignore, images_dir=str(tmp_path / "images"))
    load_collection([str(tmp_path / "shards")], address, ignore, image_roots=[str(tmp_path / "c")])

    with MilvusIndex.open(address.uri, address.collection) as collection:
        assert collection.encoder.fingerprint == FakeEncoder().fingerprint
        assert collection.image("key-1").data == image.read_bytes()
    image.unlink()
    with pytest.raises(ImageUnavailableError, match="key-1"):
        load_collection([str(tmp_path / "shards")], address, ignore, image_roots=[str(tmp_path / "c")])


def test_images_are_counted_where_they_are_not_kept(shards: str, address: CollectionAddress) -> None:
    load_collection([shards], address, ignore)
    with MilvusIndex.open(address.uri, address.collection) as collection:
        assert collection.get("k1").payload.num_images == 1
        with pytest.raises(ImageUnavailableError):
            collection.image("k1")


def test_shards_of_another_encoder_are_refused(tmp_path: Path, shards: str, address: CollectionAddress) -> None:
    load_collection([shards], address, ignore)
    other = ENCODER.model_copy(update={"fingerprint": "sha256:other"})
    records = [to_record(key, WIDTH) for key in new_keys(2)]
    write_shard(str(tmp_path / "other.parquet"), records, other, "float32")

    with pytest.raises(EncoderMismatchError, match="fingerprint: index has sha256:drawn, encoder has sha256:other"):
        load_collection([str(tmp_path / "other.parquet")], address, ignore)


def test_commands_take_a_collection_or_say_that_they_do_not(
    tmp_path: Path, shards: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYKEY_INDEX_MILVUS_TOKEN", "root:Milvus")  # there for all commands
    assert main(["load", "--shards", shards, "--index", f"{tmp_path}/directory"]) == 0
    capsys.readouterr()
    index = f"{tmp_path}/keys.db/products"
    assert main(["load", "--shards", shards, "--index", index, "--milvus-structure", "HNSW"]) == 0
    assert f"30 keys stored in {index}" in capsys.readouterr().out
    assert main(["info", "--index", index]) == 0
    out = capsys.readouterr().out
    assert "30 (10 text, 10 image, 10 fused)" in out
    assert "even (15), odd (15)" in out
    assert "'kind': 'HNSW'" in out
    assert main(["info", "--index", index, "--as-json"]) == 0
    assert '"num_keys": 30' in capsys.readouterr().out

    assert main(["load", "--shards", shards, "--index", index, "--milvus-structure", "HNSW"]) == 0
    assert main(["load", "--shards", shards, "--index", index, "--milvus-structure", "FLAT"]) == 2
    assert "--milvus-structure FLAT: the collection has HNSW" in capsys.readouterr().err
    assert main(["load", "--shards", shards, "--index", index, "--recall", "0.9"]) == 2
    assert "--recall: only for index directories" in capsys.readouterr().err
    assert main(["load", "--shards", shards, "--index", f"{tmp_path}/other", "--images-dir", "images"]) == 2
    assert "--images-dir: only for Milvus collections" in capsys.readouterr().err
    assert main(["verify", "--index", index]) == 2
    assert "this command is for index directories" in capsys.readouterr().err
    build = ["build", "--corpus", "c.jsonl", "--checkpoint", "none", "--output"]
    for output in (f"{tmp_path}/new.db/products", "http://localhost:19530/products"):
        assert main([*build, output]) == 2
        assert "this command is for index directories" in capsys.readouterr().err
    assert main(["info", "--index", f"{tmp_path}/keys.db/none"]) == 1
    assert "none" in capsys.readouterr().err


def test_no_collection_is_made_for_shards_that_cannot_be_read(
    tmp_path: Path, shards: str, address: CollectionAddress
) -> None:
    break_data(Path(shards) / "keys-00000.parquet")

    with pytest.raises(InvalidShardError, match="keys-00000"):
        load_collection([shards], address, ignore)
    with pytest.raises(IndexNotFoundError):
        MilvusIndex.open(address.uri, address.collection)


LOAD = """
import sys
from anykey.index.__main__ import main
for index in sys.argv[2:]:
    assert main(["load", "--shards", sys.argv[1], "--index", index]) == 1
"""


def test_what_milvus_lite_cannot_open_or_make_is_told_in_one_line(tmp_path: Path, shards: str) -> None:
    (tmp_path / "plain.db").write_text("no folder")
    messages = {
        "plain.db/products": f"{tmp_path}/plain.db: it is not what Milvus Lite makes, which is a folder",
        f"{'x' * 256}.db/products": "File name too long",
        f"keys.db/{'x' * 300}": "keys.db: collection name too long",
    }
    command = [sys.executable, "-c", LOAD, shards, *(f"{tmp_path}/{index}" for index in messages)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    lines = ended.stderr.splitlines()
    assert len(lines) == len(messages), ended.stderr
    for line, message in zip(lines, messages.values(), strict=True):
        assert message in line
