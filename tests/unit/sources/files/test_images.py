"""Images by location: stamps change when bytes do, and a reference never shows other bytes than it was made for."""

import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from anykey.sources.files.images import ImageReader, ImageStamp, digest_stamp, read_image, stat_image
from anykey.sources.files.locations import InlineLocation
from tests.corpora import as_parquet, entries, small_rows, tar_bytes, write_tar
from tests.factories import GREEN, RED, image_bytes
from tests.site import Site

LONG = "f" * 90 + "/" + "n" * 90 + ".png"


def members_of(shard: str | Path) -> list[str]:
    """The locations of a shard's images."""
    images = [image for entry in entries(shard) for image in entry.images]
    return [image.location if isinstance(image, ImageStamp) else image for image in images]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "./b/a.png", "caf\u00e9.png", LONG])
def test_member_is_read_by_its_place(tmp_path: Path, tar_format: int, name: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tar_format) as tar:
        for member, data in (("0.txt", b"first"), (name, image_bytes())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    (location,) = members_of(path)

    assert location.startswith(f"tar:{path}!")
    assert read_image(location) == image_bytes()
    assert stat_image(location).size_bytes == len(image_bytes())


def test_member_of_a_shard_elsewhere_is_read_by_one_request(site: Site, memory: fsspec.AbstractFileSystem) -> None:
    data = tar_bytes([("0.png", image_bytes(RED)), ("1.png", image_bytes(GREEN))])
    site.pages["/a.tar"], site.tags["/a.tar"] = data, '"1"'
    memory.pipe("/a.tar", data)

    for shard in (site.url("/a.tar"), "memory://a.tar"):
        locations = members_of(shard)
        site.requests.clear()
        assert [read_image(location) for location in locations] == [image_bytes(RED), image_bytes(GREEN)]
        assert len(site.requests) == (2 if shard.startswith("http") else 0)


def test_member_of_a_shard_that_changed_is_not_shown(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("0.png", image_bytes(RED)), ("1.png", image_bytes(GREEN))])
    location = members_of(shard)[1]

    write_tar(shard, [("0.png", image_bytes(RED)), ("2.png", image_bytes(GREEN))])
    with pytest.raises(OSError, match="the tar file has changed"):
        read_image(location)
    write_tar(shard, [("0.txt", bytes(5000)), ("1.png", image_bytes(GREEN))])
    with pytest.raises(OSError, match="the tar file has changed"):
        read_image(location)
    write_tar(shard, [])
    shard.write_bytes(shard.read_bytes()[:512])
    with pytest.raises(OSError, match=r"expected \d+ bytes from byte"):
        read_image(location)


def test_stamps_of_files_follow_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(b"12345")
    stamp = stat_image(str(tmp_path / "i.png"))
    assert (stamp.size_bytes, stamp.version) == (5, str((tmp_path / "i.png").stat().st_mtime_ns))


def test_stamp_is_a_digest_where_the_server_tells_no_version(site: Site) -> None:
    site.pages["/i.png"] = b"12345"
    assert stat_image(site.url("/i.png")) == digest_stamp(site.url("/i.png"), b"12345")
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        stat_image(site.url("/i.png"), max_bytes=4)
    site.tags["/i.png"] = '"1"'
    assert stat_image(site.url("/i.png")) == ImageStamp(site.url("/i.png"), 5, '"1"')


def test_member_stamp_is_a_digest_where_the_server_tells_no_version(site: Site) -> None:
    site.pages["/a.tar"] = tar_bytes([("0.png", image_bytes())])
    ((location,),) = [entry.images for entry in entries(site.url("/a.tar"))]
    assert isinstance(location, str)
    assert stat_image(location) == digest_stamp(location, image_bytes())


def test_digest_tells_equality_without_reading() -> None:
    stamp = digest_stamp("x", b"1")
    assert stamp.has_bytes(stamp.version.removeprefix("sha256:")) is True
    assert stamp.has_bytes("0") is False
    assert ImageStamp("x", 1, "7").has_bytes("0") is None


def test_only_an_index_of_references_keeps_what_is_secret() -> None:
    stamp = ImageStamp("https://me:secret@host/i.png?x=1", 1, "7")
    assert stamp.stored("reference") == stamp
    assert stamp.stored("copy").location.startswith("https://host/i.png#")
    assert ImageStamp("/i.png", 1, "7").stored("copy") == ImageStamp("/i.png", 1, "7")


def test_image_of_a_row_is_read_by_its_place(tmp_path: Path) -> None:
    rows = small_rows()
    path = as_parquet(rows, tmp_path, is_inline=True)
    with ImageReader() as reader:
        for number, row in enumerate(rows, 1):
            if row.images:
                location = str(InlineLocation(str(path), number, 0, "image"))
                assert reader.read(location) == read_image(location) == row.images[0]
