"""Locations: what names mean, what they hide, and that no part of a tar member's or row's gets lost."""

from hypothesis import given
from hypothesis import strategies as st

from anykey.sources.files.locations import (
    InlineLocation,
    MemberLocation,
    describe,
    hide_secrets,
    is_remote,
    join,
    normal_location,
    parent,
    parse_location,
    path_of,
    public_location,
    without_secrets,
)

FILES = st.text(min_size=1).filter(lambda text: "!" not in text)
NUMBERS = st.integers(0, 10**18 - 1)


@given(FILES, NUMBERS, NUMBERS, st.text())
def test_member_locations_come_back_whole(file: str, offset: int, size: int, name: str) -> None:
    location = MemberLocation(file, offset, size, name)
    assert parse_location(str(location)) == location


@given(FILES, NUMBERS, NUMBERS, st.text())
def test_row_locations_come_back_whole(file: str, row: int, position: int, column: str) -> None:
    location = InlineLocation(file, row, position, column)
    assert parse_location(str(location)) == location


def test_paths_and_urls_are_no_parts_of_files() -> None:
    assert [parse_location(name) for name in ("/tar:1!2+3!x", "https://host/a.tar", "tar:a")] == [None] * 3


def test_names_start_from_the_folder_of_their_file() -> None:
    assert join("/data", "a/b.png") == "/data/a/b.png"
    assert join("/data", "/other/b.png") == "/other/b.png"
    assert join("s3://bucket/set", "a/b.png") == "s3://bucket/set/a/b.png"
    assert join("s3://bucket", "b.png") == "s3://bucket/b.png"
    assert join("https://host/set", "../a?#b.png") == "https://host/a%3F%23b.png"
    assert join("https://host/set", "/mnt/b.png") == "/mnt/b.png"
    assert join("/data", "gs://bucket/b.png") == "gs://bucket/b.png"
    assert join("s3://bucket", "file:///mnt/b.png") == "/mnt/b.png"


def test_names_cannot_leave_their_host() -> None:
    assert join("https://host/set", "../../../../b.png") == "https://host/b.png"


def test_parents_and_suffixes_pass_over_queries() -> None:
    url = "https://host/set/a.tar?file=b.jsonl"
    assert parent(url) == "https://host/set"
    assert path_of(url).suffix == ".tar"
    assert path_of("s3://bucket/a?b.tar").suffix == ".tar"
    assert normal_location(url) == url


def test_nothing_secret_is_shown() -> None:
    url = "https://me:secret@host/a.tar?signature=hidden"
    member = str(MemberLocation(url, 512, 3, "b.png"))
    for shown in (without_secrets(url), without_secrets(member), describe(member), public_location(member)):
        assert "secret" not in shown
        assert "hidden" not in shown
        assert "host/a.tar" in shown
    assert hide_secrets("GET me:secret@host/a.tar?signature=hidden failed", url) == "GET ...host/a.tar?... failed"


def test_public_locations_tell_apart_what_queries_tell_apart() -> None:
    assert public_location("/a?b") == "/a?b"
    one, other = (public_location(f"https://host/image?id={number}") for number in (1, 2))
    assert one != other


def test_parts_of_remote_files_are_remote() -> None:
    assert is_remote(str(MemberLocation("s3://bucket/a.tar", 1, 2, "x")))
    assert not is_remote(str(MemberLocation("/a.tar", 1, 2, "https://x")))
