"""Where the fuzzer begins: sound cases of each target, and words that mean something to it."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.corpora import tar_bytes
from tests.unit.encoder.test_image_fuzz import SAMPLES
from tests.unit.index.filter_cases import DATES, NEAR_DATES

BOUNDARY = b"--edge"
FILTERS = [
    {"field": "a", "eq": 1},
    {"field": "size.width", "gte": 4, "lt": 12.5},
    {"field": ["size", "width"], "exists": False},
    {"field": "a\\.b", "in": [0, 1.0, True, "x", "red"]},
    {"and": [{"field": "tags", "eq": "red"}, {"not": {"field": "b", "gt": "a"}}]},
    {"or": [{"field": "a", "lte": date} for date in (*DATES[:3], *NEAR_DATES[:3])]},
    {"filter": {"field": "b", "eq": "2024-07-01"}, "metadata": {"b": ["2024-07-01T00:00Z", None, {"a": 1e22}]}},
]
SEARCHES = [
    {"text": "a red mug", "k": 3, "filter": FILTERS[0], "include": ["text", "metadata.size"]},
    {"image": "/9j/4AA=", "text_weight": 0.5, "modalities": ["image"], "exclude": ["a"], "exact": True},
    {"parts": [{"text": "a", "weight": 2}, {"words": "b"}, {"key": "c", "weight": -1}], "offset": 3, "explain": True},
    {"vector": [0.5, 1, -1e-3], "pool": "shop", "facets": [{"field": "a", "values": 3}], "group_by": "size.width"},
    {"text": "a", "rerank": {"top": 20}, "within": ["a", "b"], "min_score": 0.1, "snapshot": "x", "diversity": 0.3},
]
MEMBERS = [
    ("a.jpg", b"1"),
    ("a.json", b'{"caption": "one"}'),
    ("b/c.0.png", b"2"),
    ("b/c.1.png", b"3"),
    ("b/c.txt", b"t"),
]


FORM = b'Content-Disposition: form-data; name="%s"'


def _forms() -> list[bytes]:
    image, encoded = FORM % b"image" + b'; filename="x.jpg"', b"\r\nContent-Transfer-Encoding: "
    lines = {
        b"text": FORM % b"text" + b"\r\nContent-Type: text/plain; charset=latin-1",
        b"\xff\xd8\xff": image + b"\r\nContent-Type: image/jpeg",
        b"a,b": b"Content-Disposition: form-data; name=exclude",
        b"=C3=A4": FORM % b"text" + encoded + b"quoted-printable",
        b"ZQ==": FORM % b"image" + b"; filename*=utf-8''x" + encoded + b"base64",
        json.dumps(FILTERS[4]).encode(): FORM % b"filter" + b"\r\nContent-Type: application/json",
        b"utf-8": FORM % b"_charset_",
    }
    parts = [b"%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, head, data) for data, head in lines.items()]
    whole = [*parts, b"".join(parts)]
    return [b"multipart/form-data; boundary=edge\n" + each + BOUNDARY + b"--\r\n" for each in whole]


def _shards() -> list[bytes]:
    long = [(f"{'folder/' * 30}{number}.jpg", b"1") for number in range(2)]
    return [tar_bytes(MEMBERS), tar_bytes(MEMBERS[:2]), tar_bytes(long), tar_bytes([("\u00e4.txt", b"\xc3\xa4")])]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "images": lambda: list(SAMPLES.values()),
    "forms": _forms,
    "filters": lambda: [json.dumps(each).encode() for each in FILTERS],
    "searches": lambda: [json.dumps(each).encode() for each in SEARCHES],
    "shards": _shards,
}
JSON_WORDS = ["{", "}", "[", "]", '"', ":", ",", "null", "true", "false", "1e400", "-0", "NaN", "\\ud800", "\\u0000"]
WORDS = {
    "images": [
        "II*",
        "MM",
        "Exif",
        "tRNS",
        "PLTE",
        "acTL",
        "fcTL",
        "eXIf",
        "iCCP",
        "VP8X",
        "ANMF",
        "ALPH",
        "ispe",
        "irot",
    ],
    "forms": [
        "--edge",
        "--edge--",
        "\r\n",
        "name=",
        "filename=",
        "filename*=",
        "charset=",
        "base64",
        "multipart/mixed",
    ],
    "filters": [*JSON_WORDS, '"field":', '"and":', '"or":', '"not":', '"in":', '"eq":', '"exists":', '"gte":', *DATES],
    "searches": [*JSON_WORDS, *(f'"{name}":' for query in SEARCHES for name in query)],
    "shards": ["ustar", "././@PaxHeader", "././@LongLink", ".json", ".txt", " path=", " size=", " GNU.sparse.major=1"],
}


def write_seeds(target: str, folder: Path) -> None:
    """Writes a target's sound cases into a folder, a file each."""
    for number, seed in enumerate(SEEDS[target]()):
        (folder / f"seed-{number}").write_bytes(seed)


def write_words(target: str, path: Path) -> None:
    """Writes a target's words as libFuzzer reads them."""
    lines = ["".join(f"\\x{byte:02x}" for byte in word.encode()) for word in dict.fromkeys(WORDS[target])]
    path.write_text("".join(f'"{line}"\n' for line in lines), encoding="ascii")
