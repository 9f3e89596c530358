"""Keys are found by their words as people type them, in the order of BM25, within the whole scope, at every moment.

Shape legend: D = width.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.encoder.item import Modality
from anykey.index import FaissIndex, StoredImage
from anykey.index.errors import InvalidSearchError, WordsUnavailableError
from anykey.index.filtering.filters import parse_condition
from anykey.index.hits import Hit
from anykey.index.key_index import EVERYTHING, NewKey, Scope
from anykey.index.publish.backup import restore_snapshot, write_snapshot
from anykey.index.publish.rollback import roll_back
from anykey.index.publish.verify import repair_index, verify_index
from anykey.index.store.manifest import FoldOptions
from anykey.index.words.joining import MOST_JOINED, RANK_OFFSET, Words
from tests.live_index import make_index, unit_vectors
from tests.word_model import WordModel

IMAGE = StoredImage(b"no picture", "image/png")
BRANDS = ["Acme Red", "Zeta"]
VOCABULARY = [
    "red",
    "blue",
    "canvas",
    "shoe",
    "SKU-123",
    "SKU123",
    "sku",
    "123",
    "t-shirt",
    "Caf\u00e9",
    "\u7ea2\u8272",
]
QUERIES = ["red", "red shoe", '"red canvas"', "sh*", "SKU-123", "sku 123", "tshirt", "cafe", "\u8272", '"red ca*" blue']
INJECTIONS = ['"; DROP TABLE keys; --', "NEAR(red blue)", "red AND NOT", "tokens:red", "red^2", "a\0b", "{red} : -x"]
SPELLINGS = [
    (asked, text)
    for spellings in (
        ["SKU-123", "sku 123", "SKU123", "sku_123", "Sku/123"],
        ["t-shirt", "tshirt"],
        ["978-3-16-148410-0", "9783161484100", "978 3 16 148410 0"],
    )
    for asked in spellings
    for text in spellings
] + [
    ("T shirt", "t-shirt"),
    ("canv*", "red canvas"),
    ('"red canvas"', "a RED canvas, old"),
    ('"red canv*"', "red canvas"),
    ('"red canv"*', "red canvas"),
    ("creme brulee", "Cr\u00e8me br\u00fbl\u00e9e"),
    ("CR\u00c8ME", "creme"),
    ("\u5e06\u5e03", "\u7ea2\u8272\u5e06\u5e03\u978b"),
    ("\uff33\uff2b\uff35-1*", "sku-123"),
    ("STRASSE", "stra\u00dfe"),
    ("\u0915\u092a\u095c\u093e", "\u0932\u093e\u0932 \u0915\u092a\u095c\u093e"),
    ("red,blue", "blue"),
    ("don't", "dont"),
]


def key(name: str, text: str | None, number: int = 0, **metadata: object) -> NewKey:
    """A key that has an image where it has no text."""
    images = () if text is not None else (IMAGE,)
    pools = ("even",) if number % 2 == 0 else ("odd",)
    return NewKey(name, unit_vectors(number + 1)[number], text, images, metadata, pools)


def drawn_keys(num_keys: int, seed: int) -> list[NewKey]:
    """Keys of a few words each, the same ones again and again."""
    drawn = random.Random(seed)
    texts = [" ".join(drawn.choices(VOCABULARY, k=drawn.randint(1, 9))) for _ in range(num_keys)]
    keys = [key(f"k-{number}", text, number, brand=drawn.choice(BRANDS)) for number, text in enumerate(texts)]
    return [replace(new, images=(IMAGE,) * (number % 3 == 0)) for number, new in enumerate(keys)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for an index."""
    return tmp_path / "index"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    """An index of which a part is folded, a part is recent, and a part went again; no test changes it."""
    folder = tmp_path_factory.mktemp("index") / "i"
    keys = drawn_keys(60, 1)
    make_index(folder, keys[:35])
    with FaissIndex.open(folder, writable=True) as opened:
        opened.upsert(keys[35:])
        opened.delete(["k-3", "k-40"])
        opened.upsert([replace(keys[5], text="red canvas red")])
        yield opened


def search(index: FaissIndex, words: Words, k: int = 100, scope: Scope = EVERYTHING, **how: Any) -> list[Hit]:
    """The hits of a search by words."""
    with index.moment() as moment:
        return moment.hits(moment.rank_words(words, k, scope, **how))


def found(index: FaissIndex, asked: str, k: int = 100, scope: Scope = EVERYTHING) -> list[str]:
    """The keys that words find, best first."""
    return [hit.key for hit in search(index, Words(((asked, 1.0),)), k, scope)]


def open_with(folder: Path, keys: Sequence[NewKey], **options: object) -> FaissIndex:
    """A writable index of a few keys."""
    make_index(folder, keys, options=FoldOptions(**options))
    return FaissIndex.open(folder, writable=True)


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    """An index of keys whose texts are spelled in many ways; each is named by a number, by the order of texts."""
    folder = tmp_path_factory.mktemp("spelled") / "i"
    texts = sorted({text for _, text in SPELLINGS})
    with open_with(folder, [key(f"#{number}", text) for number, text in enumerate([*texts, "other"])]) as opened:
        yield opened


@pytest.mark.parametrize(("asked", "text"), SPELLINGS)
def test_a_text_is_found_however_it_is_typed(spelled: FaissIndex, asked: str, text: str) -> None:
    keys = found(spelled, asked)
    assert text in [spelled.get(name).payload.text for name in keys]
    assert len(keys) < spelled.count()


def test_a_key_is_found_by_its_name_and_by_what_its_metadata_say(folder: Path) -> None:
    keys = [
        key("AB-77", None),
        key("b", "text", sku="X-9", ean=4006381333931, price=1.5, tags=["new in", {"deep": "down"}], sold=True),
    ]
    with open_with(folder, keys) as index:
        assert found(index, "ab77") == ["AB-77"]
        for asked in ("x9", "4006381333931", '"new in"', "down"):
            assert found(index, asked) == ["b"]
        assert found(index, "true") == found(index, "1.5") == found(index, '"in down"') == []


def test_only_the_named_fields_count_and_can_be_changed(folder: Path) -> None:
    with open_with(folder, [key("a", "text", sku="x9", other={"deep": "far"})], word_fields=("sku",)) as index:
        assert (found(index, "x9"), found(index, "far"), found(index, "text")) == (["a"], [], ["a"])
        index.compact(index.manifest.options.model_copy(update={"word_fields": ("other.deep",)}))
        assert (found(index, "x9"), found(index, "far")) == ([], ["a"])
        index.upsert([key("b", None, sku="x9", other="near")])
        assert (found(index, "x9"), found(index, "near")) == ([], [])
        index.compact(index.manifest.options.model_copy(update={"word_fields": None}))
        assert (found(index, "x9"), found(index, "near"), found(index, "far")) == (["b", "a"], ["b"], ["a"])


@pytest.mark.parametrize("asked", INJECTIONS)
def test_nothing_that_is_typed_is_taken_for_a_command(index: FaissIndex, asked: str) -> None:
    assert {*found(index, asked)} == WordModel(list(index.scan())).scores(asked).keys()


def test_words_that_are_none_or_too_many_are_refused() -> None:
    for asked in ("", " - ", "***", "((", '"', "\0"):
        with pytest.raises(InvalidSearchError, match="expected words to look for, got none"):
            Words(((asked, 1.0),))
    with pytest.raises(InvalidSearchError, match="at most 256 words"):
        Words(((" ".join("a" * 257), 1.0),))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidSearchError, match="above 0"):
            Words((("a", weight),))


@pytest.mark.parametrize("asked", QUERIES)
def test_the_order_is_that_of_bm25_computed_plainly(index: FaissIndex, asked: str) -> None:
    expected = WordModel(list(index.scan())).scores(asked)
    hits = search(index, Words(((asked, 1.0),)), 100)
    assert {hit.key: hit.words_score for hit in hits} == pytest.approx(expected, rel=1e-9)
    scores = [hit.words_score for hit in hits]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert all(np.isnan(hit.score) for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


SCOPES: list[tuple[Scope, Callable[[str, Modality, tuple[str, ...], dict[str, object]], bool]]] = [
    (Scope(pool="odd"), lambda name, modality, pools, metadata: "odd" in pools),
    (Scope(modalities=[Modality.FUSED]), lambda name, modality, pools, metadata: modality is Modality.FUSED),
    (Scope(within=["k-1", "k-2", "k-50", "k-40"]), lambda name, *_: name in ("k-1", "k-2", "k-50")),
    (Scope(exclude=["k-0", "k-59", "k-3"]), lambda name, *_: name not in ("k-0", "k-59")),
    (
        Scope(condition=parse_condition({"field": "brand", "eq": "Zeta"}), pool="even"),
        lambda name, modality, pools, metadata: metadata["brand"] == "Zeta" and "even" in pools,
    ),
]


@pytest.mark.parametrize("case", range(len(SCOPES)))
@pytest.mark.parametrize("asked", ["red", "sku 123 shoe", "sh*"])
def test_the_scope_comes_before_the_ranking(index: FaissIndex, asked: str, case: int) -> None:
    scope, is_in = SCOPES[case]
    keys = {stored.key: stored for stored in index.scan()}
    everything = found(index, asked)
    expected = [
        name for name in everything if is_in(name, keys[name].modality, keys[name].pools, keys[name].payload.metadata)
    ]
    for k in (1, 3, 100):
        assert found(index, asked, k, scope) == expected[:k]


@pytest.mark.parametrize("join", ["rank", "weight"])
@pytest.mark.parametrize("scope", [EVERYTHING, Scope(pool="odd")])
def test_words_and_a_vector_are_joined_as_is_said(index: FaissIndex, join: str, scope: Scope) -> None:
    vector_D = unit_vectors(1, seed=9)[0]
    cosines = {hit.key: hit.score for hit in index.search(vector_D[None], 100, scope, exact=True)[0]}
    by_words = [
        {name: score for name, score in WordModel(list(index.scan())).scores(asked).items() if name in cosines}
        for asked in ("red", "shoe canvas")
    ]
    weights = (0.7, 0.5, 2.0)

    def part(scores: dict[str, float], lowest: float, name: str) -> float:
        if name not in scores:
            return 0.0
        if join == "rank":
            better = sum(score > scores[name] for score in scores.values())
            return 1 / (RANK_OFFSET + 1 + better)
        return (scores[name] - lowest) / (max(scores.values()) - lowest)

    lists = [(cosines, min(cosines.values())), *((scores, 0.0) for scores in by_words)]
    expected = {
        name: sum(weight * part(*each, name) for weight, each in zip(weights, lists, strict=True)) for name in cosines
    }
    words = Words((("red", weights[1]), ("shoe canvas", weights[2])), join, weights[0])  # type: ignore[arg-type]
    hits = search(index, words, 100, scope, vector_D=vector_D, exact=True)
    assert len(hits) == len(cosines)
    assert {hit.key: hit.score for hit in hits} == pytest.approx(cosines, abs=1e-6)
    totals = {name: sum(w * s.get(name, 0.0) for w, s in zip(weights[1:], by_words, strict=True)) for name in cosines}
    assert {hit.key: hit.words_score or 0.0 for hit in hits} == pytest.approx(totals, rel=1e-9)
    if join == "weight":  # equal scores have one place here, and two by rank
        values = [expected[hit.key] for hit in hits]
        assert values == pytest.approx(sorted(values, reverse=True))
    assert hits[0].key in sorted(expected, key=lambda name: -expected[name])[:3]
    assert [hit.key for hit in search(index, words, 5, scope, vector_D=vector_D, exact=True)] == [
        hit.key for hit in hits[:5]
    ]


def test_a_key_far_from_the_vector_is_found_by_its_words(folder: Path) -> None:
    vectors_ND = unit_vectors(MOST_JOINED + 200)
    keys = [NewKey(f"n{number}", vector_D, text="other") for number, vector_D in enumerate(vectors_ND)]
    order = np.argsort(vectors_ND @ vectors_ND[0])
    farthest = f"n{order[0]}"
    keys[order[0]] = replace(keys[order[0]], text="SKU-7")
    with open_with(folder, keys) as index:
        hits = search(index, Words((("sku7", 1.0),)), 2, vector_D=vectors_ND[0])
        assert [hit.key for hit in hits] == ["n0", farthest]
        assert hits[1].score == pytest.approx(float(vectors_ND[order[0]] @ vectors_ND[0]), abs=1e-5)
        with pytest.raises(InvalidSearchError, match="at most 1,000 hits"):
            search(index, Words((("a", 1.0),)), MOST_JOINED + 1, vector_D=vectors_ND[0])


def test_a_reader_finds_what_was_just_stored_and_not_what_went(folder: Path) -> None:
    with open_with(folder, [key("a", "red")]) as writer, FaissIndex.open(folder) as reader:
        writer.upsert([key("b", "red"), key("a", "green")])
        assert (found(reader, "red"), found(reader, "green")) == (["b"], ["a"])
        writer.delete(["b"])
        assert found(reader, "red") == []
        writer.compact()
        assert (found(reader, "red"), found(reader, "green")) == ([], ["a"])


def test_a_rollback_and_a_snapshot_have_the_words_of_their_keys(folder: Path, tmp_path: Path) -> None:
    with open_with(folder, [key("a", "red"), key("b", "blue secret")]) as index:
        index.delete(["b"])
        index.upsert([key("a", "green"), key("c", "grey")])
        index.compact()
    write_snapshot(folder, tmp_path / "s.tar")
    assert b"secret" not in (tmp_path / "s.tar").read_bytes()
    restore_snapshot(tmp_path / "s.tar", tmp_path / "restored")
    with FaissIndex.open(tmp_path / "restored") as restored:
        assert [found(restored, word) for word in ("red", "blue", "green", "grey")] == [[], [], ["a"], ["c"]]
    roll_back(folder, undo_live=True)
    with FaissIndex.open(folder) as index:
        assert [found(index, word) for word in ("red", "blue", "green", "grey")] == [["a"], ["b"], [], []]
    assert verify_index(folder) == []


def store_of(folder: Path) -> sqlite3.Connection:
    """The store's file, to be changed as an earlier release, or an accident, would."""
    return sqlite3.connect(next(folder.glob("stores/*/store.sqlite")), isolation_level=None)


def test_a_store_of_an_earlier_release_says_so_until_a_writer_has_caught_up(folder: Path) -> None:
    make_index(folder, drawn_keys(30, 3))
    with closing(store_of(folder)) as db:
        db.execute("DROP TABLE words")
        db.execute("DROP TABLE word_facts")
    with FaissIndex.open(folder) as index:
        with pytest.raises(WordsUnavailableError, match="open it for writing once"):
            found(index, "red")
        assert len(index.search(unit_vectors(1), 5)[0]) == 5
    FaissIndex.open(folder, writable=True).close()
    with FaissIndex.open(folder) as index:
        assert set(found(index, "red")) == WordModel(list(index.scan())).scores("red").keys()


def test_what_an_earlier_release_changed_is_caught_up_with(folder: Path) -> None:
    make_index(folder, drawn_keys(30, 3))
    with closing(store_of(folder)) as db:  # as if the last five had come, and the first had gone, unnoticed
        rows = [row for (row,) in db.execute("SELECT row FROM keys ORDER BY row DESC LIMIT 5")]
        db.executemany("DELETE FROM words WHERE rowid = ?", [(row,) for row in rows])
        db.execute("UPDATE word_facts SET seq = ?", (min(rows) - 1,))
        db.execute("INSERT INTO words (rowid, tokens) VALUES (-7, 'red')")
    with FaissIndex.open(folder) as index, pytest.raises(WordsUnavailableError):
        found(index, "red")
    with FaissIndex.open(folder, writable=True) as index:
        assert set(found(index, "red")) == WordModel(list(index.scan())).scores("red").keys()
    assert verify_index(folder) == []


def test_damaged_words_are_found_and_made_anew(folder: Path) -> None:
    make_index(folder, drawn_keys(30, 3))
    with closing(store_of(folder)) as db:
        db.execute("UPDATE words_content SET c0 = 'other' WHERE id = (SELECT min(id) FROM words_content)")
    (damage,) = verify_index(folder)
    assert "differs from the keys" in str(damage)
    repair_index(folder)
    assert verify_index(folder) == []
    with closing(store_of(folder)) as db:
        db.execute("UPDATE words_data SET block = x'00ff00' WHERE id > 100")
    with FaissIndex.open(folder) as index:
        with pytest.raises(WordsUnavailableError, match="repair"):
            found(index, "red")
        index.check()
    repair_index(folder)
    with FaissIndex.open(folder) as index:
        assert set(found(index, "red")) == WordModel(list(index.scan())).scores("red").keys()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("letters", ["a", "1", "\u00e9", "a-", "1 "])
def test_a_text_of_a_million_letters_costs_a_moment(tmp_path: Path, letters: str) -> None:
    """Each letter of a long word was once looked at from every letter before it, which took hours."""
    (vector_D,) = unit_vectors(1)
    with FaissIndex.open(make_index(tmp_path / "i", []), writable=True) as index:
        index.upsert([NewKey("k", vector_D, text=letters * 1_000_000)])
        assert index.count() == 1
