"""Members of plain tar files, read with the header before them, which tells whether the file is still the same."""

import tarfile
from collections.abc import Callable

from anykey.sources.files.locations import MemberLocation

ReadPart = Callable[[str, int, int], bytes]  # file, first byte, number of bytes


def member_of(member: MemberLocation, read_part: ReadPart, max_bytes: int | None = None) -> bytes:
    """Reads a member.

    Args:
        member: Which.
        read_part: Reads a part of a file; raises `OSError` where it cannot.
        max_bytes: Larger members are refused, unread.

    Raises:
        OSError: it cannot be read or is too large, or the tar file has changed.
    """
    if max_bytes is not None and member.size_bytes > max_bytes:
        raise OSError(f"it has {member.size_bytes} bytes, at most {max_bytes} are accepted")
    if member.offset < tarfile.BLOCKSIZE:
        raise OSError("there is no member at that place")
    data = read_part(member.file, member.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + member.size_bytes)
    try:
        header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise OSError("the tar file has changed") from error
    has_whole_name = member.name.isascii() and len(member.name) <= tarfile.LENGTH_NAME  # else it is in a pax header
    if header.size != member.size_bytes or (has_whole_name and header.name != member.name):
        raise OSError("the tar file has changed")
    return data[tarfile.BLOCKSIZE :]
