"""The report: what a snapshot keeps, what the curves are read from, and a page that stands alone."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from anykey.training.gaps import measure_gaps
from anykey.training.report import About, ShownPair, Snapshot, numbers_of_pairs, range_of_selection, write_report
from anykey.training.report.history import MAX_POINTS, read_history, thinned
from anykey.training.report.noise import of_change, of_mean, of_replicates
from anykey.training.report.projection import Plane
from anykey.training.report.snapshot import BIN_EDGES, MAX_PHOTOS
from anykey.training.report.tables import gap_tables, headline_tables, success_tables
from anykey.training.validation import ALL_COMBINATIONS, HeldOut, measure
from tests.html_pages import Page

ORDER = ("i", "t", "it")
PICTURE = "data:image/jpeg;base64,/9j/"
SETTINGS = {"data": ["a.tar", "b.tar"], "start": None, "lock_image": True, "learning_rate": 1e-5, "loss": "gcl"}


def held_out(num_pairs: int = 40, gap: float = 2.0, seed: int = 1) -> HeldOut:
    """Pairs whose modalities lie `gap` apart."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(num_pairs, 12, generator=generator)

    def side() -> dict[str, Tensor]:
        image, text = (
            functional.normalize(base + torch.randn(num_pairs, 12, generator=generator) + gap * offset, dim=-1)
            for offset in torch.eye(12)[:2]
        )
        return {"i": image, "t": text, "it": functional.normalize(image + text, dim=-1)}

    return HeldOut(side(), side(), torch.ones(num_pairs, dtype=torch.bool))


def write_metrics(path: Path) -> Path:
    rows = [
        {"step": step, "pairs": step * 8, "train/loss": 3 - step / 20, "train/temperature": 0.07, "train/entropy": step}
        for step in range(10, 50, 10)
    ]
    rows += [
        {"step": step, "pairs": step * 8, "val/mixed/mean/success@10": step / 40, "val/gap/i-t": 1.0}
        for step in (0, 20, 40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_page(folder: Path, before: Snapshot | None, after: Snapshot | None, run_name: str = "a run") -> str:
    metrics = write_metrics(folder / "metrics.jsonl")
    shown = numbers_of_pairs([state for state in (before, after) if state is not None])
    pairs = {number: ShownPair(f"query {number}", f"key <b>{number}</b>", PICTURE) for number in shown}
    sentences = ("By others.", ["Beware <of> this."], ["Do <that> now."])
    about = About({"Bad rows": "3 of 90"}, SETTINGS, ["reading"], *sentences, pairs)
    write_report(folder / "report.html", run_name, about, metrics, before, after)
    return (folder / "report.html").read_text(encoding="utf-8")


# Snapshots.


def test_a_snapshot_holds_what_was_measured_of_all_nine_combinations() -> None:
    vectors = held_out()
    snapshot = Snapshot.of(vectors)
    assert snapshot.num_pairs == 40
    assert snapshot.numbers == measure(vectors, ALL_COMBINATIONS, (1, 5, 10, 50), (10,)) | measure_gaps(vectors)


def test_two_snapshots_keep_the_same_photos_and_not_too_many() -> None:
    before, after = (Snapshot.of(held_out(MAX_PHOTOS + 60, gap)) for gap in (2.0, 2.0))
    assert before.vectors["it"].shape == (MAX_PHOTOS, 12)
    assert np.array_equal(before.vectors["t"], after.vectors["t"])


def test_a_saved_snapshot_comes_back(tmp_path: Path) -> None:
    snapshot = Snapshot.of(held_out().asking(torch.arange(40) % 4 > 0))
    snapshot.save(tmp_path / "before.npz")
    loaded = Snapshot.load(tmp_path / "before.npz")
    assert loaded is not None
    assert (loaded.num_pairs, loaded.num_asked, loaded.numbers) == (40, 30, snapshot.numbers)
    for field in ("asked", "gains", "left_out", "examples"):
        kept, was = getattr(loaded, field), getattr(snapshot, field)
        assert kept.keys() == was.keys() != set(), field
        assert all(np.array_equal(kept[name], was[name]) for name in was), field
    for name in ORDER:
        np.testing.assert_allclose(loaded.vectors[name], snapshot.vectors[name], atol=1e-3)
    for name, counts in snapshot.histograms.items():
        assert np.array_equal(loaded.histograms[name], counts)
    assert [path.name for path in tmp_path.iterdir()] == ["before.npz"]


def test_a_snapshot_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "before.npz"
    Snapshot.of(held_out()).save(path)
    (tmp_path / "before.npz.new").mkdir()
    with pytest.raises(OSError, match="new"):
        Snapshot.of(held_out(20)).save(path)
    loaded = Snapshot.load(path)
    assert loaded is not None
    assert loaded.num_pairs == 40


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"[1, 2]"])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "before.npz"
    Snapshot.of(held_out()).save(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(OSError, match="no snapshot"):
        Snapshot.load(path)
    np.savez(path, about=np.array(json.dumps({"format": 99})))
    with pytest.raises(OSError, match="format 99"):
        Snapshot.load(path)
    np.savez(path, about=np.array(json.dumps({"format": 1})))  # of an earlier release: nothing to be shown, no error
    assert Snapshot.load(path) is None


def test_histograms_count_every_pair_of_photos_once() -> None:
    vectors = held_out(7)
    expected = {name: np.zeros(len(BIN_EDGES) - 1) for name in ("true_same", "true_cross", "random_same")}
    for query in ORDER:
        for key in ORDER:
            for row in range(7):
                for other in range(7):
                    cosine = float(vectors.queries[query][row] @ vectors.keys[key][other])
                    position = int(np.searchsorted(BIN_EDGES, cosine, side="right")) - 1
                    if row != other and query == key:
                        expected["random_same"][position] += 1
                    elif row == other and f"{query}>{key}" in ("t>i", "i>t", "t>it", "it>t"):
                        expected["true_cross"][position] += 1
                    elif row == other and f"{query}>{key}" == "t>t":
                        expected["true_same"][position] += 1
    found = Snapshot.of(vectors).histograms
    for name, counts in expected.items():
        assert np.abs(found[name] - counts).sum() <= 2  # one cosine may round across an edge
    assert found["random_cross"].sum() == 6 * 7 * 6


# Curves and planes.


def test_a_resumed_run_and_half_a_line_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [(10, 3.0), (20, 2.0), (30, 9.0), (20, 2.5), (30, float("nan")), (40, 1.0)]
    lines = [json.dumps({"step": step, "pairs": 1, "train/loss": loss, "note": "text"}) for step, loss in rows]
    path.write_text("\n".join([*lines[:3], "[]", '{"pairs": 1}', *lines[3:], '{"step": 50, "train/lo']))
    history = read_history(path)
    assert set(history) == {"train/loss"}
    steps, values = history["train/loss"]
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist() == [3.0, 2.5, 9.0, 1.0]
    assert read_history(tmp_path / "missing.jsonl") == {}


def test_a_long_curve_becomes_the_means_of_neighbours() -> None:
    steps = np.arange(2 * MAX_POINTS + 1, dtype=np.float64)
    thin_steps, thin_values = thinned((steps, steps * 2))
    assert len(thin_steps) == -(-len(steps) // 3)
    assert thin_steps[:2].tolist() == [1.0, 4.0]
    assert thin_values[:2].tolist() == [2.0, 8.0]
    assert thin_steps[-1] == steps[-1]
    short = (np.arange(3.0), np.arange(3.0))
    assert thinned(short) is short


def test_the_plane_is_that_of_a_singular_value_decomposition() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32) @ np.diag(np.arange(9, 0, -1.0))
    plane = Plane.fit(rows)
    _, values, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert plane.share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    np.testing.assert_allclose(np.abs(plane.points(rows)), np.abs((rows - rows.mean(0)) @ axes[:2].T), atol=1e-4)


def test_the_plane_lies_along_the_largest_variances() -> None:
    strengths = np.array([5.0, 0.1, 3.0, 0.1])
    rows = (np.random.default_rng(0).normal(size=(400, 4)) * strengths + 7.0).astype(np.float32)
    plane = Plane.fit(rows)
    assert plane.points(rows).std(0).tolist() == pytest.approx([5.0, 3.0], rel=0.1)
    assert plane.share == pytest.approx(34.0 / 34.02, abs=0.01)
    np.testing.assert_allclose(plane.points(rows), rows[:, [0, 2]] - plane.mean_D[[0, 2]], atol=0.6)


def test_rows_that_are_all_alike_lie_in_one_point() -> None:
    plane = Plane.fit(np.ones((5, 3), dtype=np.float32))
    assert plane.share == 1.0
    assert np.abs(plane.points(np.ones((5, 3), dtype=np.float32))).max() == 0.0


# Tables.


def test_a_change_has_its_sign_and_says_whether_it_is_good() -> None:
    before = Snapshot(1, {"local/mean/success@10": 0.4, "mixed/mean/success@10": 0.3, "gap/i-t": 0.8}, {}, {})
    after = Snapshot(1, {"local/mean/success@10": 0.381, "mixed/mean/success@10": 0.30001, "gap/i-t": 0.3}, {}, {})
    (table,) = headline_tables({"before": before, "after": after})
    local, mixed, gap = (row.values[0] for row in table.rows)
    assert (list(local.texts), local.change, local.verdict) == (["40.0", "38.1"], "-1.9", "worse")
    assert (mixed.change, mixed.verdict) == ("0.0", "")
    assert (list(gap.texts), gap.change, gap.verdict) == (["0.800", "0.300"], "-0.500", "")


def states_of_changes(gained: int, lost: int, num_pairs: int = 50) -> dict[str, Snapshot]:
    """Two states in which so many queries of `t>i` came into the first ten, and left them."""
    states = {}
    for name, found in (("before", slice(gained, gained + lost)), ("after", slice(0, gained))):
        gain_Q = np.zeros((5, num_pairs), dtype=np.float32)
        gain_Q[:, found] = 1
        numbers = {"local/t>i/success@10": float(gain_Q[2].mean())}
        kept = {"asked": {"local/t>i": np.arange(num_pairs)}, "gains": {"local/t>i": gain_Q}}
        states[name] = Snapshot(num_pairs, numbers, {}, {}, num_pairs, **kept)
    return states


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    # What McNemar's exact test says of them: p = 0.5, 0.06, 0.03, 0.13, 0.004, 0.02
    [(2, 0, "noise"), (5, 0, "noise"), (6, 0, "better"), (6, 1, "noise"), (1, 11, "worse"), (3, 13, "worse")],
)
def test_a_change_that_chance_may_have_made_is_noise(gained: int, lost: int, verdict: str) -> None:
    (value,) = [
        row.values[0] for row in success_tables(states_of_changes(gained, lost))[2].rows if row.label == "text > image"
    ]
    assert (value.verdict, value.size) == (verdict, "50")


def test_the_interval_of_a_share_is_wilsons() -> None:
    row = success_tables(states_of_changes(10, 0))[2].rows[1]
    assert row.label == "text > image"
    assert list(row.values[0].ranges) == ["0.0 to 7.1", "11.2 to 33.0"]  # 0 and 10 of 50


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Fifty pairs, five combinations of which one pair finds all easier than another; the truth is 50 %."""
    generator = np.random.default_rng(0)
    pairs = np.arange(50)
    held = 0
    for _ in range(400):
        ease_P = generator.normal(size=50)
        parts = [(pairs, (ease_P + generator.normal(size=50) > 0).astype(np.float64)) for _ in range(5)]
        held += (own := of_mean(parts)).low <= 0.5 <= own.high
    assert 0.92 <= held / 400 <= 0.98


def mixed_parts(found_P: np.ndarray) -> list[tuple[Any, Any]]:
    """Gains in the mixed pool: of each three pairs one is asked for three times, always with the same end."""
    pairs = np.arange(len(found_P))
    return [(pairs[pairs % 3 == kind], found_P[pairs % 3 == kind] * 1.0) for kind in (0, 1, 1, 1, 2)]


def test_intervals_of_the_mixed_pool_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(3000):
        own = of_mean(mixed_parts(generator.random(60) < 0.5))
        held += own.low <= 0.5 <= own.high
    assert 0.935 <= held / 3000 <= 0.975


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_pairs_that_weigh_more_than_others_say_less_together(share: float) -> None:
    own = of_mean(mixed_parts(np.arange(90) % 30 < 30 * share))
    num = 90 / 1.32  # the squares of 3/5, 1/5 and 1/5 of the weight, of a third of the pairs each
    half = 1.96 * (share * (1 - share) / num + 1.96**2 / (4 * num**2)) ** 0.5
    centre = share + 1.96**2 / num / 2
    ends = [(centre + sign * half) / (1 + 1.96**2 / num) for sign in (-1, 1)]
    assert (own.low, own.high) == pytest.approx(ends, abs=1e-4)


@pytest.mark.parametrize(("has_second", "num"), [(True, 90 / 1.32), (False, 60)])
def test_the_score_that_chooses_is_as_sure_as_the_pairs_that_are_asked_for(has_second: bool, num: float) -> None:
    """All are found; with one caption a pair, no third is asked for as a fused key."""
    eye = dict.fromkeys(ORDER, torch.eye(90))
    own = range_of_selection(HeldOut(eye, eye, torch.full((90,), has_second)))
    assert (own.low, own.high) == pytest.approx((num / (num + 1.96**2), 1.0), abs=1e-4)


def test_the_ends_of_a_change_are_changes_that_can_be() -> None:
    pairs = np.arange(20)
    all_gained = of_change([(pairs, np.zeros(20))], [(pairs, np.ones(20))])
    assert (all_gained.low, all_gained.high) == (pytest.approx(0.735, abs=1e-3), 1.0)
    all_lost = of_change([(pairs, np.ones(20))], [(pairs, np.zeros(20))])
    assert (all_lost.low, all_lost.high) == (-1.0, pytest.approx(-0.735, abs=1e-3))


def test_no_change_of_few_pairs_leaves_more_open_than_none_of_many() -> None:
    reach = []
    for num_pairs in (20, 200):
        none = [(np.arange(num_pairs), np.ones(num_pairs))]
        own = of_change(none, none)
        assert own.low == -own.high
        reach.append(own.high)
    assert reach == pytest.approx([1.96 * 2**0.5 / 22, 1.96 * 2**0.5 / 202], abs=1e-4)


def test_two_runs_that_differ_by_chance_alone_are_seldom_told_apart() -> None:
    generator = np.random.default_rng(1)
    pairs = np.arange(50)
    told = 0
    for _ in range(400):
        ease_P = generator.normal(size=50)
        then, now = (
            [(pairs, (ease_P + generator.normal(size=50) > 0).astype(np.float64)) for _ in range(5)] for _ in range(2)
        )
        told += not of_change(then, now).holds_zero
    assert told / 400 <= 0.06


def test_the_gaps_interval_shrinks_as_pairs_become_more() -> None:
    widths = []
    for num_pairs in (40, 160, 1300):  # of the last, a thousand are left out in groups
        (first, *_) = gap_tables({"after": Snapshot.of(held_out(num_pairs))})[0].rows
        low, high = (float(end) for end in first.values[0].ranges[0].split(" to "))
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] > 0


def test_intervals_of_what_the_mixed_pool_shows_are_not_those_of_another_deal() -> None:
    """Fifteen sets of pairs: what they differ by is what an interval of one of them should say, and not much more."""
    found = [Snapshot.of(held_out(60, 0.5, seed)) for seed in range(15)]
    ratios = []
    for name in ("rank1/t/i", "rank1/t/t", "rank1/i/t", "confusion/t>i", "confusion/i>t", "confusion/t>t"):
        reach = [of_replicates(0.0, state.left_out[name].astype(np.float64)).high for state in found]
        ratios.append(np.mean(reach) / (2.262 * np.std([state.numbers[name] for state in found], ddof=1)))
    assert 0.9 < np.mean(ratios) < 1.7


def test_what_was_not_measured_is_a_dash() -> None:
    (table,) = headline_tables({"after": Snapshot(1, {"gap/i-t": 0.5}, {}, {})})
    assert [list(row.values[0].texts) for row in table.rows] == [["-"], ["-"], ["0.500"]]


def test_the_five_that_are_judged_come_first_then_their_mean() -> None:
    states = {"before": Snapshot.of(held_out()), "after": Snapshot.of(held_out(gap=0.0))}
    tables = success_tables(states)
    assert [table.title for table in tables] == [
        *(f"Success@{k} (%)" for k in (1, 5, 10, 50)),
        "nDCG@10 (%)",
    ]
    roles = [row.role for row in tables[2].rows]
    assert roles == [""] * 5 + ["mean"] + ["muted"] * 4
    expected = f"{100 * states['after'].numbers['mixed/t>it/success@10']:.1f}"
    (row,) = [row for row in tables[2].rows if row.label == "text > fused"]
    assert row.values[1].texts[1] == expected
    assert len(gap_tables(states)) == 4


# The page.


@dataclass
class Drawn:
    """A page of two states, and what it was drawn of."""

    folder: Path
    vectors: tuple[HeldOut, HeldOut]
    before: Snapshot
    after: Snapshot
    page: Page
    changed_settings: set[str]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Drawn once for all who look at it."""
    folder, vectors = tmp_path_factory.mktemp("page"), (held_out(), held_out(gap=0.0))
    before, after = map(Snapshot.of, vectors)
    settings = dict(mpl.rcParams)
    page = Page(write_page(folder, before, after))
    changed = {name for name, value in mpl.rcParams.items() if settings[name] != value}
    return Drawn(folder, vectors, before, after, page, changed)


def test_the_page_stands_alone_and_is_well_formed(drawn: Drawn) -> None:
    page = drawn.page
    assert page.open == []
    loads = [load for load in page.loads if load != PICTURE]
    assert len(loads) < len(page.loads)
    assert [load for load in loads if not load.startswith("#")] == []
    assert {load[1:] for load in loads} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_the_page_shows_both_states_the_curves_and_the_settings(drawn: Drawn) -> None:
    words = drawn.page.words
    for name in ("local/t>i/success@10", "mixed/t>it/success@1", "mixed/mean/ndcg@10"):
        for state in (drawn.before, drawn.after):
            assert f"{100 * state.numbers[name]:.1f}" in words
    charts = {"Loss", "Temperature", "Held-out success@10, means", "Distance of mean vectors", "train/entropy"}
    assert charts <= set(words)
    assert "Learning rate" not in words  # the run did not log it
    assert {"3 of 90", "a.tar, b.tar", "1e-05", "yes"} <= set(words)
    assert any(f"--checkpoint {drawn.folder / 'best'}" in word for word in words)


def test_without_held_out_pairs_the_page_says_so(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "bare", About(), tmp_path / "none.jsonl", None, None)
    text = (tmp_path / "report.html").read_text()
    assert "no held-out pairs" in text
    assert "No measurements were found" in text
    assert Page(text).open == []


def test_the_page_shows_a_few_queries_with_their_first_hits_before_and_after(drawn: Drawn) -> None:
    page = drawn.page
    (row, *_) = drawn.before.examples["rows"].tolist()
    assert page.words.count(f"query {row}") == 2  # as a text, and as the text of a fused query
    assert "b" not in page.tags, "a caption is no markup"
    for state, which in zip(("before", "after"), drawn.vectors, strict=True):
        score_P = which.queries["i"][row] @ which.keys["t"].T
        first = int(score_P.argmax())
        rank = int((score_P >= score_P[row]).sum())
        assert f"key <b>{first}</b>" in page.words
        assert f"{state}: its own is number {rank}" in page.words


def test_the_page_of_one_state_has_no_changes_and_says_what_to_beware_of(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path, None, Snapshot.of(held_out().asking(torch.arange(40) < 25))))
    assert "change" not in page.words
    assert {"Beware <of> this.", "Do <that> now.", "By others.", "reading", "after"} <= set(page.words)
    words = " ".join(" ".join(page.words).split())
    assert "Measured with the queries of 25 held-out pairs, among the keys of 40." in words


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    text = write_page(tmp_path, None, None, run_name="<script>alert('x')</script> & co")
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;" in text


def test_drawing_leaves_matplotlibs_settings_alone(drawn: Drawn) -> None:
    assert drawn.changed_settings == set()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_paints_the_pictures_in_the_pages_colours(tmp_path: Path) -> None:
    write_page(tmp_path, Snapshot.of(held_out(300)), Snapshot.of(held_out(300, gap=0.0)))
    picture = tmp_path / "page.png"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1000,9000", f"--screenshot={picture}", (tmp_path / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((0x0B, 0x6B, 0xCB), (0xD9, 0x58, 0x0D), (0x0A, 0x8F, 0x62)):
        assert (np.abs(pixels - colour).max(1) < 40).sum() > 200
