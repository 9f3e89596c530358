"""An index reads no image that it refers to but below roots that its operator named, whoever made what is in it."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.__main__ import main
from anykey.index.errors import (
    ImageRefusedError,
    ImageUnavailableError,
    IndexCorruptError,
    IndexFormatError,
    InvalidSnapshotError,
)
from anykey.index.jobs.embedding_job import embed_corpus
from anykey.index.jobs.shards import write_shard
from anykey.index.jobs.transfer import export_faiss, export_shards, load_shards
from anykey.index.publish.backup import restore_snapshot, write_snapshot
from anykey.index.settings import EmbedSettings
from anykey.index.store.new_keys import check_record
from anykey.index.store.records import NewImage
from tests.factories import build_with, image_bytes, write_jsonl
from tests.fakes import FakeEncoderSource
from tests.live_index import ENCODER, unit_vectors
from tests.site import Site, serve

PICTURE = image_bytes()


def ignore(count: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


def corpus_of(folder: Path, *images: str) -> Path:
    return write_jsonl(folder / "c.jsonl", [{"key": f"k{n}", "image": image} for n, image in enumerate(images)])


def shard_of(path: Path, location: str) -> str:
    """A shard as a stranger writes it, whose key refers to anything."""
    record = check_record(
        "a", None, {}, (), (NewImage("image/png", location, None),), unit_vectors(1)[0], ENCODER.width
    )
    write_shard(str(path), [record], ENCODER, "float32")
    return str(path)


def refused(index_dir: Path, key: str = "a") -> str:
    with FaissIndex.open(index_dir) as index, pytest.raises(ImageRefusedError) as caught:
        index.image(key)
    return str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "secret.png"
    path.write_bytes(PICTURE)
    return path


class TestLoad:
    def test_reference_below_no_named_root_is_refused_and_nothing_is_loaded(
        self, tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shard = shard_of(tmp_path / "s.parquet", str(secret))

        assert main(["load", "--shards", shard, "--index", str(tmp_path / "i")]) == 1

        said = " ".join(capsys.readouterr().err.split())
        assert "key 'a' refers to an image at" in said
        assert "name its folder or URL with --image-root" in said
        assert not (tmp_path / "i" / "CURRENT").exists()

    def test_named_root_lets_its_images_be_loaded_and_read(
        self, tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shard = shard_of(tmp_path / "s.parquet", str(secret))

        done = main(
            ["load", "--shards", shard, "--index", str(tmp_path / "i"), "--image-root", "/none", str(secret.parent)]
        )

        assert done == 0
        capsys.readouterr()
        assert main(["info", "--index", str(tmp_path / "i")]) == 0
        assert f"image roots {', '.join(sorted(['/none', str(secret.parent)]))}" in capsys.readouterr().out
        with FaissIndex.open(tmp_path / "i") as index:
            assert index.image("a").data == PICTURE

    @pytest.mark.parametrize(
        "path", ["{inside}/../private/secret.png", "{inside}/link.png", "{inside}/folder/secret.png", "{private}.png"]
    )
    def test_links_and_dots_count_for_where_they_lead(self, tmp_path: Path, secret: Path, path: str) -> None:
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "link.png").symlink_to(secret)
        (inside / "folder").symlink_to(secret.parent)
        Path(f"{inside}-other.png").write_bytes(PICTURE)
        location = path.format(inside=inside, private=f"{inside}-other")

        with pytest.raises(ImageRefusedError):
            load_shards([shard_of(tmp_path / "s.parquet", location)], tmp_path / "i", ignore, image_roots=[str(inside)])

    @pytest.mark.parametrize("kind", ["parquet:{path}!1:0!image", "tar:{path}!512+8!a.png", "secret.png", "{path}\0"])
    def test_other_locations_are_refused_alike(self, tmp_path: Path, secret: Path, kind: str) -> None:
        (tmp_path / "inside").mkdir()
        location = kind.format(path=secret)
        with pytest.raises(ImageRefusedError):
            load_shards(
                [shard_of(tmp_path / "s.parquet", location)],
                tmp_path / "i",
                ignore,
                image_roots=[str(tmp_path / "inside")],
            )

    @pytest.mark.parametrize(
        "url",
        [
            "http://169.254.169.254/latest/meta-data",
            "http://host.example/photos-other/1.png",
            "http://host.example/photos/../secret.png",
            "http://host.example/photos/%2e%2e/secret.png",
            "http://host.example/photos/%252e%252e/secret.png",
            "http://host.example/photos/..%5csecret.png",
            "http://host.example@inner.example/photos/1.png",
            "http://host.example:81/photos/1.png",
            "https://host.example/photos/1.png",
            "http://inner.example/http://host.example/photos/1.png",
            "simplecache::http://host.example/photos/1.png",
            "zip://a.png::file:///etc/passwd",
            "local:///etc/passwd",
            "s3://photos/other/1.png",
            "s3://photos/kept/../other/1.png",
        ],
    )
    def test_urls_beside_a_root_are_refused(self, tmp_path: Path, url: str) -> None:
        roots = ["http://host.example/photos/", "s3://photos/kept"]
        with pytest.raises(ImageRefusedError):
            load_shards([shard_of(tmp_path / "s.parquet", url)], tmp_path / "i", ignore, image_roots=roots)

    def test_roots_of_an_index_let_nothing_be_loaded_that_its_command_does_not_name(
        self, tmp_path: Path, secret: Path
    ) -> None:
        build_with(corpus_of(secret.parent, "secret.png"), tmp_path / "built", images="reference")
        export_shards(tmp_path / "built", tmp_path / "shards", ignore)

        with pytest.raises(ImageRefusedError):
            load_shards([str(tmp_path / "shards")], tmp_path / "built", ignore)


class TestRead:
    def test_link_that_is_put_there_later_is_not_followed(self, tmp_path: Path, secret: Path) -> None:
        photo = tmp_path / "photos" / "1.png"
        corpus = corpus_of(photo.parent, "1.png")
        photo.write_bytes(PICTURE)
        build_with(corpus, tmp_path / "i", images="reference")

        photo.unlink()
        photo.symlink_to(secret)

        assert "it is below no folder or URL that images may be read from" in refused(tmp_path / "i", "k0")

    def test_what_is_no_image_or_another_kind_is_not_given(self, tmp_path: Path) -> None:
        photo = tmp_path / "photos" / "1.png"
        corpus = corpus_of(photo.parent, "1.png")
        photo.write_bytes(PICTURE)
        build_with(corpus, tmp_path / "i", images="reference")

        photo.write_bytes(b"BM root:x:0:0:root:/root:/bin/bash")
        assert "holds no image that can be shown" in refused(tmp_path / "i", "k0")
        photo.write_bytes(image_bytes(image_format="JPEG"))
        assert "holds another kind of image than was indexed: image/jpeg, not image/png" in refused(
            tmp_path / "i", "k0"
        )

    def test_image_that_has_grown_beyond_the_limit_is_not_read(self, tmp_path: Path) -> None:
        photo = tmp_path / "photos" / "1.png"
        corpus = corpus_of(photo.parent, "1.png")
        photo.write_bytes(PICTURE)
        build_with(corpus, tmp_path / "i", images="reference", max_image_bytes=1000)

        photo.write_bytes(PICTURE + bytes(2000))

        with (
            FaissIndex.open(tmp_path / "i") as index,
            pytest.raises(ImageUnavailableError, match="has more than 1000 bytes"),
        ):
            index.image("k0")

    def test_redirect_out_of_the_roots_is_refused_and_one_within_is_followed(self, tmp_path: Path, site: Site) -> None:
        site.pages["/photos/1.png"] = PICTURE
        site.pages["/c.jsonl"] = b'{"key": "k0", "image": "moved/photos/1.png"}\n'
        build_with(site.url("/c.jsonl"), tmp_path / "i", images="reference")
        with FaissIndex.open(tmp_path / "i") as index:
            assert index.image("k0").data == PICTURE
        with (
            FaissIndex.open(tmp_path / "i", image_roots=[site.url("/moved")]) as index,
            pytest.raises(ImageRefusedError, match=r"leads on to http://127.0.0.1:\d+/photos/1.png, below no URL"),
        ):
            index.image("k0")

    def test_application_decides_over_what_is_recorded(self, tmp_path: Path, secret: Path) -> None:
        build_with(corpus_of(secret.parent, "secret.png"), tmp_path / "i", images="reference")
        with FaissIndex.open(tmp_path / "i", image_roots=[]) as index, pytest.raises(ImageRefusedError):
            index.image("k0")


class TestBuild:
    def test_place_outside_the_corpus_must_be_named(self, tmp_path: Path, secret: Path) -> None:
        inside = tmp_path / "corpus"
        corpus = corpus_of(inside, "1.png", "../private/secret.png", str(secret))
        (inside / "1.png").write_bytes(PICTURE)

        report = build_with(corpus, tmp_path / "i", images="reference")

        assert report.manifest.num_keys == 1
        assert "cannot refer to image" in report.bad_rows[0].reason
        assert "name its place with --image-root" in report.bad_rows[1].reason
        build_with(corpus, tmp_path / "i", images="reference", image_root=[str(secret.parent)])
        with FaissIndex.open(tmp_path / "i") as index:
            assert [index.image(f"k{n}").data for n in range(3)] == [PICTURE] * 3

    def test_no_address_is_asked_that_a_redirect_out_of_the_roots_names(self, tmp_path: Path, site: Site) -> None:
        for path in ("/photos/1.png", "/photos/2.png", "/inner/x.png"):
            site.pages[path], site.tags[path] = PICTURE, "1"
        corpus = corpus_of(tmp_path, *map(site.url, ("/photos/1.png", "/photos/2.png", "/moved/inner/x.png")))
        wanted = {"images": "reference", "image_root": [site.url("/photos"), site.url("/moved")]}

        report = build_with(corpus, tmp_path / "i", **wanted)

        reason = "leads on to http://127.0.0.1:[0-9]+/inner/x.png, below no URL .*; name its place with --image-root"
        assert report.manifest.num_keys == 2
        assert re.search(reason, report.bad_rows[0].reason)
        site.tags["/photos/1.png"], site.moved["/photos/1.png"] = "2", "/inner/x.png"
        report = build_with(corpus, tmp_path / "i", **wanted)
        assert report.num_unreachable == 1
        assert not [path for path, _ in site.requests if path.startswith("/inner")]

    def test_shard_and_folder_are_roots_themselves(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(PICTURE)
            tar.addfile(member, io.BytesIO(PICTURE))
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "b.png").write_bytes(PICTURE)

        build_with([tmp_path / "s.tar", tmp_path / "photos"], tmp_path / "i", images="reference")

        recorded = json.loads((tmp_path / "i" / "image_roots.json").read_text())
        assert recorded["corpus"] == [str(tmp_path / "photos"), str(tmp_path / "s.tar")]
        with FaissIndex.open(tmp_path / "i") as index:
            assert [index.image(key).data for key in ("a", "b")] == [PICTURE] * 2

    def test_next_corpus_takes_the_place_of_the_roots_before_and_named_ones_stay(
        self, tmp_path: Path, secret: Path
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        for folder in (first, second):
            corpus_of(folder, "1.png")
            (folder / "1.png").write_bytes(PICTURE)
        build_with(first / "c.jsonl", tmp_path / "i", images="reference")
        with FaissIndex.open(tmp_path / "i") as index:
            shard = tmp_path / "s.parquet"
            record = check_record("a", None, {}, (), (NewImage("image/png", str(secret), None),), unit_vectors(1)[0], 8)
            write_shard(str(shard), [record], index.encoder, "float32")
        load_shards([str(shard)], tmp_path / "i", ignore, image_roots=[str(secret.parent)])

        build_with(second / "c.jsonl", tmp_path / "i", images="reference")

        recorded = json.loads((tmp_path / "i" / "image_roots.json").read_text())
        assert (recorded["corpus"], recorded["named"]) == ([str(second)], [str(secret.parent)])

    def test_roots_stay_while_keys_do_that_the_corpus_cannot_give_now(self, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        for folder in (first, second):
            folder.mkdir()
            (folder / "1.png").write_bytes(PICTURE)
        write_jsonl(first / "c.jsonl", [{"key": "there before", "image": "1.png"}])
        build_with(first / "c.jsonl", tmp_path / "i", images="reference")
        corpus = corpus_of(second, "1.png")
        whole = corpus.read_text()
        corpus.write_text(whole + '{"key": "there bef')

        build_with(corpus, tmp_path / "i", images="reference")

        with FaissIndex.open(tmp_path / "i") as index:
            assert [index.image(key).data for key in ("there before", "k0")] == [PICTURE] * 2
        corpus.write_text(whole)
        build_with(corpus, tmp_path / "i", images="reference")
        recorded = json.loads((tmp_path / "i" / "image_roots.json").read_text())
        assert recorded["corpus"] == [str(second)]

    def test_roots_without_references_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="image_root is for images by reference"):
            build_with(corpus_of(tmp_path, "1.png"), tmp_path / "i", image_root=["/data"])

    def test_what_a_faiss_file_comes_with_must_be_images_too(self, tmp_path: Path) -> None:
        from tests.unit.index.jobs.test_imported import build_imported, write_faiss

        (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (tmp_path / "1.png").write_bytes(PICTURE)
        corpus = corpus_of(tmp_path, "1.png", "passwd")
        path = write_faiss(tmp_path / "v.faiss", vectors_ND=unit_vectors(2))

        report = build_imported(corpus, tmp_path / "i", path)

        assert report.manifest.num_keys == 1
        assert report.bad_rows[0].reason.startswith("it is no image that can be read: ")


class TestSnapshot:
    @pytest.fixture
    def snapshot(self, tmp_path: Path, secret: Path) -> Path:
        build_with(corpus_of(secret.parent, "secret.png"), tmp_path / "theirs", images="reference")
        write_snapshot(tmp_path / "theirs", tmp_path / "s.tar")
        return tmp_path / "s.tar"

    def test_reference_below_no_named_root_is_refused(self, tmp_path: Path, snapshot: Path) -> None:
        with pytest.raises(ImageRefusedError, match=r"key 'k0' refers to an image at .*secret.png.*--image-root"):
            restore_snapshot(snapshot, tmp_path / "i")
        assert not (tmp_path / "i").exists()

    def test_named_root_lets_it_be_restored_and_read(self, tmp_path: Path, snapshot: Path, secret: Path) -> None:
        command = ["restore", "--snapshot", str(snapshot), "--output", str(tmp_path / "i")]
        assert main([*command, "--image-root", str(secret.parent)]) == 0
        with FaissIndex.open(tmp_path / "i") as index:
            assert index.image("k0").data == PICTURE

    @pytest.mark.parametrize("name", ["image_roots.json", "./image_roots.json", "versions/up/image_roots.json"])
    def test_snapshot_brings_no_roots_of_its_own(self, tmp_path: Path, snapshot: Path, name: str) -> None:
        data = json.dumps({"corpus": ["/"]}).encode()
        with tarfile.open(snapshot, "a") as tar:
            if name.startswith("versions"):
                link = tarfile.TarInfo("versions/up")
                link.type, link.linkname = tarfile.SYMTYPE, ".."
                tar.addfile(link)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        with pytest.raises(InvalidSnapshotError, match="which is no part of one"):
            restore_snapshot(snapshot, tmp_path / "i", ["/"])
        assert not (tmp_path / "i").exists()


def test_export_reads_no_member_of_a_file_outside_the_roots(tmp_path: Path, secret: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(PICTURE)
        tar.addfile(member, io.BytesIO(PICTURE))
    build_with(tmp_path / "s.tar", tmp_path / "i", images="reference")
    (tmp_path / "i" / "image_roots.json").unlink()

    with pytest.raises(ImageRefusedError):
        export_faiss(tmp_path / "i", tmp_path / "out", ignore)


def test_embedding_job_may_refer_anywhere_and_load_decides(tmp_path: Path, secret: Path) -> None:
    found = {"corpus": [str(corpus_of(tmp_path / "c", str(secret)))], "checkpoint": "unused", "images": "reference"}
    embed_corpus(EmbedSettings.model_validate({**found, "output": str(tmp_path / "out")}), FakeEncoderSource())

    with pytest.raises(ImageRefusedError):
        load_shards([str(tmp_path / "out")], tmp_path / "i", ignore)


def test_damaged_record_lets_nothing_be_read(tmp_path: Path, secret: Path) -> None:
    build_with(corpus_of(secret.parent, "secret.png"), tmp_path / "i", images="reference")
    (tmp_path / "i" / "image_roots.json").write_text('{"corpus": "/"}')
    assert "build the index again" in refused(tmp_path / "i", "k0")
    (tmp_path / "i" / "image_roots.json").unlink()
    build_with(secret.parent / "c.jsonl", tmp_path / "i", images="reference")  # up to date, and recorded again
    with FaissIndex.open(tmp_path / "i") as index:
        assert index.image("k0").data == PICTURE


@pytest.mark.parametrize("content", ["{", "[]", '{"named": 5}', '{"format_version": 2, "named": ["/mnt/photos"]}'])
def test_what_is_recorded_and_cannot_be_read_is_not_written_over(tmp_path: Path, secret: Path, content: str) -> None:
    corpus = corpus_of(secret.parent, "secret.png")
    build_with(corpus, tmp_path / "i", images="reference")
    export_shards(tmp_path / "i", tmp_path / "shards", ignore)
    recorded = tmp_path / "i" / "image_roots.json"
    recorded.write_text(content)

    with pytest.raises((IndexCorruptError, IndexFormatError), match=r"image_roots\.json (is damaged|has format 2)"):
        build_with(corpus, tmp_path / "i", images="reference", image_root=["/mnt/other"])
    with pytest.raises((IndexCorruptError, IndexFormatError), match=r"image_roots\.json (is damaged|has format 2)"):
        load_shards([str(tmp_path / "shards")], tmp_path / "i", ignore, image_roots=[str(secret.parent)])
    assert recorded.read_text() == content


@pytest.mark.parametrize("name", ["", "https://", "zip://a::http://b", "s3://bucket/a/../b"])
def test_what_is_no_root_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="that images may be read from"):
        load_shards(["s"], Path("i"), ignore, image_roots=[name])
