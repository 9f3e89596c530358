"""What reads strangers' bytes, as functions of bytes: each returns, or raises what no caller is told to expect.

Run as a program, it is one process of the fuzzer: `python -m benchmarks.fuzzing.targets NAME FLAGS OF LIBFUZZER`.
"""

import io
import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import atheris

# What is imported here tells the fuzzer which of its lines a case reaches. Codecs in C tell nothing.
with atheris.instrument_imports(include=["anykey", "python_multipart", "PIL", "tarfile"], enable_loader_override=False):
    import tarfile

    from anykey.encoder.errors import InvalidItemError
    from anykey.encoder.images import ImageLimits, decode_image, image_type
    from anykey.index.errors import InvalidFilterError
    from anykey.index.filtering.conditions import matches
    from anykey.index.filtering.filters import parse_condition, to_json
    from anykey.index.filtering.growing import GrowingPostings
    from anykey.index.store.new_keys import dump_metadata
    from anykey.service.errors import ServiceError
    from anykey.service.queries.query import parse_json, query_from_json
    from anykey.service.requests.multipart import query_from_multipart
    from anykey.service.schemas import Limits
    from anykey.sources.errors import SourceError
    from anykey.sources.shards import Contents, read_contents

MAX_PIXELS = 1_000_000
IMAGES = ImageLimits(max_pixels=MAX_PIXELS)
LIMITS = Limits(
    max_k=1000,
    max_depth=10_000,
    max_body_bytes=2**20,
    max_image_bytes=2**20,
    max_image_pixels=MAX_PIXELS,
    max_image_aspect=200,
    max_images=8,
    max_parts=16,
    max_text_chars=10_000,
    max_exclude=1000,
    max_within=1000,
    max_keys=1000,
    max_rerank_top=100,
    max_batch_queries=64,
    max_embed_items=64,
    request_deadline_ms=10_000,
)
ROWS = [  # metadata that a filter is asked of; each is a key's
    {},
    {"a": 1, "b": "x", "tags": ["red", "blue"], "size": {"width": 4}},
    {"a": 1.0, "b": True, "tags": "red", "size": [{"width": 12.5}, {"width": None}]},
    {"a": 2**53 + 1, "b": "2024-07-01T00:00+02:00", "a.b": 0, "": {"": ""}},
    {"a": "2024-06-30T22:00:00Z", "b": [[[1], "1"], {"a": []}], "size": {"width": {"a": -0.0}}},
]


@dataclass(frozen=True)
class Target:
    """Something that reads strangers' bytes.

    Attributes:
        name: What the page calls it.
        reads: Reads them.
        max_bytes: Longer cases are not tried.
        mended: A case as it was changed, with the sums of its parts counted anew, without which nothing reads further.
    """

    name: str
    reads: Callable[[bytes], None]
    max_bytes: int
    mended: Callable[[bytes], bytes] | None = None


def read_image(data: bytes) -> None:
    """Decodes an image to a small picture, or says why not."""
    image_type(data)
    for target_px in (None, 16):
        try:
            image = decode_image(data, IMAGES, target_px)
        except InvalidItemError:
            continue
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS


def read_form(data: bytes) -> None:
    """Reads a search from a form: a line with its type, and the body behind it."""
    content_type, _, body = data.partition(b"\n")
    try:
        query_from_multipart(body, content_type.decode("latin-1"), LIMITS)
    except (ServiceError, InvalidItemError):
        return


def read_filter(data: bytes) -> None:
    """Reads a filter and, where one is given, metadata; what the index finds is what the filter means."""
    try:
        document = parse_json(data, "the body")
    except ServiceError:
        return
    rows = ROWS
    if isinstance(document, dict) and document.keys() == {"filter", "metadata"}:
        document, metadata = document["filter"], document["metadata"]
        try:
            rows = [*ROWS, json.loads(dump_metadata(metadata))]
        except (TypeError, ValueError):
            return
    try:
        condition = parse_condition(document)
    except InvalidFilterError:
        return
    expected = [place for place, row in enumerate(rows) if matches(condition, row)]
    postings = GrowingPostings()
    postings.put(0, [("text", (), row) for row in rows])
    assert postings.positions(condition, len(rows)).tolist() == expected
    written = to_json(condition)
    again = parse_condition(json.loads(json.dumps(written)))
    assert to_json(again) == written
    assert [place for place, row in enumerate(rows) if matches(again, row)] == expected


def read_search(data: bytes) -> None:
    """Reads a search from its JSON; equal ones are known by it."""
    try:
        query = query_from_json(data, LIMITS)
    except (ServiceError, InvalidItemError):
        return
    assert query.digest == query_from_json(data, LIMITS).digest


def read_shard(data: bytes) -> None:
    """Reads what members a shard has; those that it names lie within it."""
    try:
        contents = read_contents(io.BufferedReader(io.BytesIO(data)), "shard.tar", len(data), with_texts=True)
    except SourceError as error:
        contents = Contents(damage=str(error))
    contents.doubt()
    assert "\n" not in contents.damage
    for sample in contents.samples.values():
        for member in [*sample.images, *sample.texts.values()]:
            assert 0 <= member.offset <= member.offset + member.size_bytes <= len(data)


def _with_sums_of_png(data: bytes) -> bytes:
    """The same with the sum of each chunk as PNG counts it; other formats have none."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def _with_sums_of_tar(data: bytes) -> bytes:
    """The same with the sum of each header as tar counts it."""
    mended = bytearray(data)
    for place in range(0, len(data) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        header = data[place : place + tarfile.BLOCKSIZE]
        if header[257:262] == b"ustar":
            told = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
            mended[place + 148 : place + 156] = b"%06o\0 " % told
    return bytes(mended)


TARGETS = {
    target.name: target
    for target in (
        Target("images", read_image, 4096, _with_sums_of_png),
        Target("forms", read_form, 4096),
        Target("filters", read_filter, 2048),
        Target("searches", read_search, 2048),
        Target("shards", read_shard, 16_384, _with_sums_of_tar),
    )
}


def _mutator(mended: Callable[[bytes], bytes]) -> Callable[[bytes, int, int], bytes]:
    """What libFuzzer changes, with sums mended but for one case in eight."""

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        changed: bytes = atheris.Mutate(data, max(max_bytes, len(data)))
        return (changed if seed % 8 == 0 else mended(changed))[:max_bytes]

    return mutate


def main() -> None:
    """Runs one target until libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    warnings.simplefilter("ignore")  # Pillow remarks on what it skips
    flags = [sys.argv[0], f"-max_len={target.max_bytes}", *sys.argv[2:]]
    mutator = {} if target.mended is None else {"custom_mutator": _mutator(target.mended)}
    atheris.Setup(flags, target.reads, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
