"""The report of a run tells the truth: who chose `best`, what was in force, what to beware of, what was found."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.training.__main__ import main
from tests.drawn_pairs import DrawnPair, drawn_pairs, write_shard, write_tar
from tests.networks import TEXT, small_architecture
from tests.pictures import encoded, plain

SMALL = ["--architecture", "small.json", "--batch-size", "8", "--num-epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training pairs, held-out pairs, few and many, and a small architecture."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train.tar", drawn_pairs(16))
    write_shard(folder / "few.tar", drawn_pairs(32)[16:])
    colours = [(7 * i % 256, 31 * i % 256, 59 * i % 256) for i in range(210)]
    many = [
        DrawnPair(f"{i}", encoded(plain(colour), "PNG"), (f"<b>{i}</b>", f"number {i}"))
        for i, colour in enumerate(colours)
    ]
    write_shard(folder / "many.tar", many)
    write_open_clip_config(small_architecture(text={**TEXT, "layers": 1}), folder)
    (folder / "open_clip_config.json").rename(folder / "small.json")
    return folder


def report(folder: Path, monkeypatch: pytest.MonkeyPatch, *argv: str, run: str = "run") -> str:
    """The words of the report of a run with these flags, and its page."""
    monkeypatch.chdir(folder)
    assert main(["--data", "train.tar", "--output", run, *argv]) == 0
    return (folder / run / "report.html").read_text()


def words_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def settings_shown(page: str) -> dict[str, str]:
    found = re.findall(r'<th scope="row"><code>(\w+)</code></th><td>(.*?)</td>', page)
    return {name: unescape(value) for name, value in found}


def test_many_held_out_pairs_are_shared_out_and_best_is_reported_by_those_that_did_not_choose(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(report(folder, monkeypatch, *SMALL, "--val-data", "many.tar", run="a"))
    told = re.search(r"chosen by the queries of (\d+) held-out pairs; reported are those of the other (\d+)", words)
    assert told is not None
    choosing, reported = map(int, told.groups())
    assert (choosing + reported, abs(choosing - reported) <= 1) == (210, True)
    assert f"Measured with the queries of {reported} held-out pairs, among the keys of 210." in words
    best = json.loads((folder / "a" / "finished.json").read_text())
    assert best["chosen_by"] != best["mixed/mean/success@10"], "the log has the queries of all"


def test_few_held_out_pairs_choose_and_are_reported_and_the_page_and_the_terminal_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(report(folder, monkeypatch, *SMALL, "--val-data", "few.tar", run="few"))
    assert "chosen by the very pairs that are reported, as 16 are too few" in words
    printed = capsys.readouterr().out
    for warning in ("The run had 2 steps, which is a handful", "Only 16 held-out pairs are reported"):
        assert warning in words
        assert f"warning: {warning}" in printed
    best = json.loads((folder / "few" / "finished.json").read_text())
    assert best["chosen_by"] == best["mixed/mean/success@10"]


def test_first_hits_are_shown_with_pictures_and_captions_are_no_markup(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = report(folder, monkeypatch, *SMALL, "--val-data", "many.tar", run="a")
    pictures = re.findall(r'src="(data:image/jpeg;base64,[^"]*)"', page)
    assert 3 * 2 + 3 * 4 <= len(pictures) <= 3 * 2 + 3 * 8
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert len(page) < 2_000_000


def test_settings_are_those_in_force_and_no_file_is_named_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(folder, monkeypatch, *SMALL, "--val-data", "few.tar", run="b")
    start = ["--start", "b/best", "--loss", "clip", "--batch-size", "64", "--num-epochs", "1", "--device", "auto"]
    page = report(folder, monkeypatch, *start, run="c")
    shown, words = settings_shown(page), words_of(page)
    assert shown["architecture"] == "small"
    assert shown["fusion"] == "raw"
    assert shown["batch_size"] == "16", "a batch has no more pairs than there are"
    assert (shown["device"], shown["precision"]) == ("cpu", "fp32")
    assert float(shown["temperature"]) == pytest.approx(0.07, abs=0.01)
    idle = {"reading", "pair_weights", "separation_weight", "hard_negatives", "val_every_epochs"} | {
        "feature_cache",
        "max_feature_cache_bytes",
    }
    assert not idle & shown.keys()
    assert all(name in words for name in idle)
    assert "started from b/best" in words
    assert "bad rows none" in words
    assert not (folder / "c" / "bad_rows.jsonl").exists()
    assert "bad_rows.jsonl" not in page


def test_bad_rows_are_counted_where_they_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [("broken.png", b"no image"), ("broken.txt", b"one")]
    write_tar(folder / "broken.tar", members)
    page = report(folder, monkeypatch, *SMALL, "--data", "broken.tar", "--max-bad-share", "0.5", run="d")
    assert "bad rows 1, listed in bad_rows.jsonl" in words_of(page)
    assert len((folder / "d" / "bad_rows.jsonl").read_text().splitlines()) == 1
