"""The page of a quality run: it stands alone, believes nothing it is given, and shows what went wrong and how."""

import base64
import io
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Published, Query, Task
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.losses import losses_of
from anykey.benchmark.page.page import write_page
from anykey.benchmark.page.thumbnails import MAX_BYTES, MAX_TOTAL_CHARS, addresses, thumbnail
from anykey.benchmark.page.worst import MAX_CHARS, Measured, worst_queries
from anykey.benchmark.report import Report, as_json
from anykey.benchmark.scoring import score
from anykey.benchmark.settings import QualitySettings
from tests.html_pages import Page
from tests.quality_pages import INFO, miniature, report_of

MARKUP = "<script>alert('x')</script>"
TASK = Task("toys_task0", "toys 0 <b>text</b>", "global", None, "success@1", key_modality="image")


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(side: int, seed: int = 0) -> bytes:
    """A picture that no compression makes small."""
    return encoded(Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)))


RED, GREEN = (encoded(Image.new("RGB", (300, 200), colour)) for colour in ("#ff0000", "#00ff00"))
KEYS = [
    Entry("boat", "A <i>boat</i>.", (RED,)),
    Entry("torn", images=(RED[:60],)),
    Entry("novel", "word " * 200),
    Entry("film", images=(GREEN,) * 5),
    Entry("never looked at", "x"),
]
QUERIES = [
    Query("q1", MARKUP, relevant={"boat": 1}),
    Query("q2", "green", (GREEN,), relevant={"novel": 1, "film": 2}),
    Query("q3", "found at once", relevant={"torn": 1}),
    Query("q4", "found second", relevant={"torn": 1}),
]
RANKED = {
    "q1": ["torn", "<img src=x>", "boat"],
    "q2": ["torn", "boat"],
    "q3": ["torn", "boat"],
    "q4": ["boat", "torn"],
}


class Toys(Dataset):
    """A dataset of a few keys that counts how many of them were read."""

    name, splits, card = "Toys <1>", ("test",), Card("", "", "", "")
    num_read = 0
    damage = ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return False

    def tasks(self) -> list[Task]:
        return [TASK]

    def queries(self, task: Task) -> list[Query]:
        return QUERIES

    def corpus(self) -> Iterator[Entry]:
        for entry in KEYS:
            self.num_read += 1
            if entry.key == self.damage:
                raise DatasetError(f"row {entry.key} is damaged")
            yield entry

    def published(self, task: Task, queries: Any, rankings: Any) -> list[Published]:
        return [Published("hits<>", "their <rule>", [0.25])]


def answer(keys: list[str]) -> Answer:
    hits = tuple(Hit(key, 0.9 - place / 10, "image") for place, key in enumerate(keys))
    return Answer(hits, 0.25, {"search <ms>": 7.25}, False, 0, ("7", "f"))


def measured(ranked: Mapping[str, list[str]] = RANKED, exact: bool = False, task: Task = TASK) -> Measured:
    answers = {query: answer(keys) for query, keys in ranked.items()}
    published = [Published("hits<>", "their <rule>", [0.25])]
    return score(task, 4, QUERIES, answers, [1, 5], exact, published=published), QUERIES, answers


def written(folder: Path, *rounds: Measured, num: int = 5, dataset: Toys | None = None) -> str:
    """The page of a run."""
    dataset = dataset or Toys(folder, "test")
    settings = QualitySettings(dataset=folder / MARKUP, cutoffs=[1, 5], worst=num)
    worst, unread = worst_queries(rounds, dataset, num)
    report = Report.of(settings, dataset, INFO, [result for result, *_ in rounds], [f"Beware {MARKUP}"])
    losses = losses_of([(result, answers) for result, _, answers in rounds])
    write_page(folder / "report.html", replace(report, worst=worst, unread=unread, losses=losses))
    return (folder / "report.html").read_text(encoding="utf-8")


def words_of(text: str) -> list[str]:
    """The words of a page, spaces put right."""
    return [" ".join(word.split()) for word in Page(text).words if word]


def test_the_page_stands_alone_and_takes_nothing_for_markup(tmp_path: Path) -> None:
    text = written(tmp_path, measured())
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "i"} & set(page.tags)
    assert [load for load in page.loads if not load.startswith(("#", "data:image/jpeg;base64,"))] == []
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    words = words_of(text)
    for given in (
        MARKUP,
        f"Beware {MARKUP}",
        TASK.title,
        "A <i>boat</i>.",
        "<img src=x>",
        "search <ms>",
        "their <rule>",
    ):
        assert given in words, given


def test_the_worst_queries_come_with_what_was_right_and_what_came_instead(tmp_path: Path) -> None:
    dataset = Toys(tmp_path, "test")
    (task,), unread = worst_queries([measured()], dataset, 2)
    assert (unread, task.num_missed) == ("", 1)
    assert [(case.query, case.rank) for case in task.cases] == [("q2", None), ("q1", 3)]
    missed, third = task.cases
    assert [key.name for key in missed.relevant] == ["film", "novel"]  # the better grade first
    assert [key.is_relevant for key in third.hits] == [False, False, True]
    torn, unknown, boat = third.hits
    assert torn.item is not None
    assert torn.item.pictures == (None,)
    assert unknown.item is None
    assert boat.score == pytest.approx(0.7)
    film, novel = (key.item for key in missed.relevant)
    assert film is not None
    assert (len(film.pictures), film.num_images) == (3, 5)
    assert novel is not None
    assert len(novel.text) <= MAX_CHARS
    assert dataset.num_read == 5, "the corpus is read once, to its end as one key is not in it"
    words = words_of(written(tmp_path, measured(), num=2))
    assert {"an image that cannot be read", "not known to the dataset", "and 2 more"} <= set(words)
    assert "1 of 4 found no relevant key" in words
    assert words.count("relevant") == 2 + 1  # headings, and the hit that is
    assert "found second" not in words


def test_a_page_without_worst_queries_reads_no_key(tmp_path: Path) -> None:
    dataset = Toys(tmp_path, "test")
    assert "The worst queries" not in words_of(written(tmp_path, measured(), num=0, dataset=dataset))
    best = {"q1": ["boat"], "q2": ["film"], "q3": ["torn"], "q4": ["torn"]}
    assert "every query found a relevant key first" in words_of(written(tmp_path, measured(best), dataset=dataset))
    assert dataset.num_read == 0
    known = {**best, "q4": ["boat"]}
    written(tmp_path, measured(known), dataset=dataset)
    assert dataset.num_read == 2, "it is read no further than needed"


def test_a_corpus_that_breaks_costs_pictures_and_no_number(tmp_path: Path) -> None:
    dataset = Toys(tmp_path, "test")
    dataset.damage = "novel"
    words = words_of(written(tmp_path, measured(), dataset=dataset))
    assert any("row novel is damaged" in word for word in words)
    assert "A <i>boat</i>." in words
    assert "0.250" in words


def test_numbers_stand_with_their_intervals_ranks_modalities_and_latencies(tmp_path: Path) -> None:
    round = measured()
    words = words_of(written(tmp_path, round))
    own = round[0].headline
    assert own.value == 0.25
    assert f"{own.low:.3f} to {own.high:.3f}" in words
    place = words.index("not in 10")
    assert words[place - 3 : place + 6] == ["1", "2-5", "6-10", "not in 10", TASK.title, "1", "2", "0", "1"]
    place = words.index("fused")
    assert words[place - 2 : place + 5] == ["text", "image", "fused", TASK.title, "0%", "100%", "0%"]
    assert words[place + 5 : place + 9] == ["all keys", "25%", "50%", "25%"]
    assert words[-1].startswith("AnyKey ")
    assert words.count("250.0") == words.count("7.2") == 3
    assert "0.2500" in words  # by the rules of published code


def test_curves_of_latency_rise_to_all_answers_within_the_powers_of_ten_around_them(tmp_path: Path) -> None:
    _, queries, answers = measured()
    slow = {name: replace(answer, latency_s=0.02 * 3**place) for place, (name, answer) in enumerate(answers.items())}
    page = written(tmp_path, (score(TASK, 4, queries, slow, [1, 5, 10]), queries, slow))
    assert "from 10 to 1,000" in " ".join(page.split())
    (points,) = re.findall(r'polyline points="([^"]+)"', page)
    across, down = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
    assert across[0] == pytest.approx(120 * math.log10(2) / 2, abs=0.1)
    assert across[-1] == pytest.approx(120 * math.log10(54) / 2, abs=0.1)
    assert list(across) == sorted(across)
    assert (down[0], down[-1]) == (30, 0)


def test_what_the_index_loses_is_told_query_by_query(tmp_path: Path) -> None:
    exact = dict(RANKED) | {"q2": ["film", "torn"]}
    rounds = (measured(), measured(exact, exact=True))
    (loss,) = losses_of([(result, answers) for result, _, answers in rounds])
    assert loss.lost.value == 0.25
    assert loss.lost.low == 0.0
    # q2 has one of two keys, and another whose score is that of the last one.
    assert loss.kept == 1.0
    words = words_of(written(tmp_path, *rounds))
    assert {"What the index loses", "100.0 %"} <= set(words)
    assert words.count("The worst queries") == 1
    assert words[words.index("100.0 %") + 1 :][:2] == ["-", "-"]  # the service told of no stage that is called search
    assert sum(word.startswith("Query") for word in words) == 3, "the worst of both ways are the same queries"
    report = Report.of(QualitySettings(), Toys(tmp_path, "test"), INFO, [result for result, *_ in rounds], [])
    (row,) = as_json(replace(report, losses=[loss]))["losses"]
    assert (row["lost"], row["kept@10"]) == (0.25, 1.0)


def test_a_search_that_misses_exact_hits_keeps_fewer() -> None:
    far = {query: [*keys, "filler"] for query, keys in RANKED.items()} | {"q3": ["torn", "other", "else"]}
    rounds = [measured(far), measured({**far, "q3": ["torn", "boat", "filler"]}, exact=True)]
    (loss,) = losses_of([(result, answers) for result, _, answers in rounds])
    assert loss.kept == pytest.approx((3 + 2 / 3) / 4)  # of q3 one was missed, and one has the last one's score
    assert (loss.lost.low, loss.lost.high) == (0.0, 0.0)


def test_nothing_scored_is_a_page_too(tmp_path: Path) -> None:
    assert "Nothing was scored." in words_of(written(tmp_path))


# Pictures.


def shown(jpeg: bytes | None) -> Image.Image:
    assert jpeg is not None
    return Image.open(io.BytesIO(jpeg))


def test_pictures_are_small_upright_and_on_white() -> None:
    assert len(thumbnail(noise(500)) or b"") <= MAX_BYTES
    turned = Image.new("RGB", (80, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert shown(thumbnail(encoded(turned, "JPEG", exif=exif))).size == (40, 80)
    clear = encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    assert shown(thumbnail(clear)).getpixel((5, 5)) == (255, 255, 255)
    assert shown(thumbnail(lambda: GREEN)).size == (144, 96)
    for mode in ("1", "L", "P", "CMYK", "I;16"):
        assert shown(thumbnail(encoded(Image.new(mode, (9, 9)), "TIFF"))).mode == "RGB"


def test_what_is_no_picture_or_too_large_is_none(tmp_path: Path) -> None:
    def fails() -> bytes:
        raise DatasetError("no such frame")

    huge = encoded(Image.new("1", (9000, 9000)))
    for image in (tmp_path / "missing.png", b"", b"text", RED[:60], huge, fails):
        assert thumbnail(image) is None


def test_pictures_of_a_page_are_bounded_together() -> None:
    pictures = {thumbnail(noise(200, seed)) or b"": 25 for seed in range(60)}
    found = addresses(pictures)
    lengths = [len(address or "") * pictures[jpeg] for jpeg, address in found.items()]
    assert sum(lengths) <= MAX_TOTAL_CHARS
    assert all(found.values()), "all are there, and smaller"
    for address in found.values():
        shown(base64.b64decode(str(address).partition(",")[2])).load()
    crowded = addresses({jpeg: 2000 for jpeg in pictures})
    assert sum(len(address) * 2000 for address in crowded.values() if address) <= MAX_TOTAL_CHARS
    assert None in crowded.values()


def test_a_few_pictures_stay_as_good_as_they_are() -> None:
    jpeg = thumbnail(noise(200)) or b""
    address = addresses({jpeg: 3})[jpeg]
    assert base64.b64decode(str(address).partition(",")[2]) == jpeg


# All of M-BEIR.


@pytest.mark.slow
def test_a_page_of_32_rows_stays_below_5_megabytes(tmp_path: Path) -> None:
    dataset = miniature(tmp_path)
    pictures = [noise(150, seed) for seed in range(8)]
    for number, path in enumerate((dataset.root / "mbeir_images").rglob("*.jpg")):
        path.write_bytes(pictures[number % len(pictures)])
    report = report_of(dataset)
    assert sum(len(section.results) for section in report.sections) == 32
    assert sum(len(task.cases) for task in report.worst) > 100
    write_page(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert page.open == []
    assert page.tags.count("img") > 500
