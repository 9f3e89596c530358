"""The report says what the runs' checkpoints reach on the test pairs, and leaves the machine's paths out."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.nn import functional

from anykey.encoder.fusion import Fusion
from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.sources.errors import NoPairsError
from anykey.training.interpolate import interpolate_checkpoints
from anykey.training.interpolate_settings import InterpolateSettings
from anykey.training.study import command
from anykey.training.study.evaluation import Evaluator, choose
from anykey.training.study.plan import make_plan, make_search
from anykey.training.study.runner import run_plan
from anykey.training.study.settings import StudySettings
from anykey.training.study.tables import markdown, search
from tests.fusion_models import write_architecture, write_text_model
from tests.study_runs import PAIRS, study_settings, write_study_data
from tests.visualized import Toy

RECIPE = Path(__file__).parents[3] / "training" / "recipes" / "gcl-study.toml"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """A finished study of two seeds and both fusions; read only."""
    folder = tmp_path_factory.mktemp("study")
    changes = {"seeds": [0, 1], "fusions": ["raw", "unit"], "picture": "gcl-R2", "machine": "a small machine"}
    settings = study_settings(write_study_data(folder / "data"), folder / "out", **changes)
    assert command.run(settings) == 0
    return settings


def rows_of(settings: StudySettings) -> list[dict[str, Any]]:
    return list(json.loads((settings.output / "report" / "gcl-study.json").read_text())["rows"])


def trained_keys(settings: StudySettings) -> torch.Tensor:
    """Image vectors `[P, D]` of what CLIP's loss left with the first seed."""
    run = next(run for run in make_plan(settings) if run.variant == "clip")
    return Evaluator(settings, Console(quiet=True)).embed(run, Fusion.RAW, "test").keys["i"]


def test_every_variant_is_measured_with_every_fusion_and_centring_of_every_seed(study: StudySettings) -> None:
    found = [(row["variant"], row["fusion"], row["centring"], row["seed"]) for row in rows_of(study)]
    assert len(found) == len(set(found)) == 3 * 2 * 3 * 2
    assert {name for name, *_ in found} == {"start", "clip", "gcl-R2"}


def test_a_number_is_what_the_checkpoint_gives_through_the_encoder(study: StudySettings) -> None:
    run = next(run for run in make_plan(study) if (run.variant, run.seed, run.fusions) == ("gcl-R2", 1, ("unit",)))
    encoder = Encoder.load(run.checkpoint)
    pairs = PAIRS[23:]
    pictures = encoder.encode([Item(images=(pair.image,)) for pair in pairs])
    queries = encoder.encode([Item(text=pair.captions[1]) for pair in pairs])
    pages = encoder.encode([Item(text=pair.captions[0], images=(pair.image,)) for pair in pairs])
    for key, keys in (("i", pictures), ("it", pages)):
        scores = queries @ keys.T
        found = mean(float((row > row[own]).sum() == 0) for own, row in enumerate(scores))
        (row,) = [row for row in rows_of(study) if where(row) == ("gcl-R2", 1, "unit", "plain")]
        assert row["numbers"][f"local/t>{key}/success@1"] == pytest.approx(found)


def where(row: dict[str, Any]) -> tuple[str, int, str, str]:
    return row["variant"], row["seed"], row["fusion"], row["centring"]


def test_the_page_shows_mean_and_deviation_over_the_seeds(study: StudySettings) -> None:
    page = (study.output / "report" / "gcl-study.md").read_text()
    values = [
        row["numbers"]["mixed/mean/ndcg@10"]
        for row in rows_of(study)
        if (row["variant"], row["fusion"], row["centring"]) == ("gcl-R2", "raw", "plain")
    ]
    assert f"| {mean(values):.3f} ({stdev(values):.3f}) |" in page
    assert "on a small machine" in page
    assert "the 9 test pairs are the same for all" in page
    assert "lie 0.327 away" in page  # 1.96 * 0.5 / sqrt(9)
    assert re.search(r"^\| gcl-R2 .*[0-9)] ~ ", page, re.MULTILINE), "two seeds tell hardly anything apart"
    assert "8 of 8 runs are finished" in page
    assert str(study.output) not in page


def test_the_page_gives_a_variants_reason_as_it_stands(study: StudySettings) -> None:
    page = (study.output / "report" / "gcl-study.md").read_text()
    assert '| clip | `loss = "clip"` | images \\| texts ---: no more |\n' in page
    assert "| variant | settings | why |\n| --- | --- | --- |\n" in page


def test_a_text_ends_neither_its_cell_nor_its_row() -> None:
    assert markdown(["a|b", "n"], [["two\nlines", "1"]]) == "| a\\|b | n |\n| --- | ---: |\n| two lines | 1 |\n"


def test_the_pictures_are_there_and_the_page_shows_them(study: StudySettings) -> None:
    folder = study.output / "report"
    page = (folder / "gcl-study.md").read_text()
    for path in folder.glob("*.png"):
        assert f"({path.name})" in page
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    assert len([*folder.glob("*.png")]) == 4


def test_the_leads_of_the_pictured_variant_are_tested_against_every_other(study: StudySettings) -> None:
    found = json.loads((study.output / "report" / "gcl-study.json").read_text())["leads"]
    assert {(lead["over"], lead["fusion"], lead["pool"]) for lead in found} == {
        (other, fusion, pool)
        for other in ("start", "clip")
        for fusion in ("raw", "unit")
        for pool in ("local", "mixed")
    }
    means: dict[str, list[float]] = {row["variant"]: [] for row in rows_of(study)}
    for row in rows_of(study):
        if (row["fusion"], row["centring"]) == ("unit", "plain"):
            means[row["variant"]].append(row["numbers"]["local/mean/success@10"])
    (lead,) = [lead for lead in found if (lead["over"], lead["fusion"], lead["pool"]) == ("clip", "unit", "local")]
    assert lead["mean"] == pytest.approx(mean(means["gcl-R2"]) - mean(means["clip"]))
    assert lead["low"] <= lead["mean"] <= lead["high"]
    assert (
        f"| clip | {lead['mean']:+.3f} [{lead['low']:+.3f}, {lead['high']:+.3f}]"
        in (study.output / "report" / "gcl-study.md").read_text()
    )


def test_a_point_on_the_way_is_what_interpolate_makes(study: StudySettings, tmp_path: Path) -> None:
    variants = [*study.model_dump()["variants"], {"name": "half", "of": "clip", "share": 0.5}]
    settings = StudySettings(**{**study.model_dump(exclude_unset=True), "variants": variants})
    run = next(run for run in make_plan(settings) if run.variant == "half")
    found = Evaluator(settings, Console(quiet=True)).embed(run, Fusion.RAW, "test")
    paths = {"start": run.settings.start, "tuned": str(run.checkpoint), "output": tmp_path / "half"}
    interpolate_checkpoints(InterpolateSettings(**paths, share=0.5))
    vectors = Encoder.load(tmp_path / "half").encode([Item(images=(pair.image,)) for pair in PAIRS[23:]])
    assert functional.cosine_similarity(torch.from_numpy(vectors), found.keys["i"]).min() > 0.9999
    assert functional.cosine_similarity(torch.from_numpy(vectors), trained_keys(study)).min() < 0.9999


def test_a_search_chooses_by_the_validation_pairs_alone(study: StudySettings, tmp_path: Path) -> None:
    changes = {"fusions": ["raw"], "seeds": [0], "only": ["clip"], "search": {"learning_rate": [1e-3, 1e-1]}}
    settings = StudySettings(**{**study.model_dump(exclude_unset=True), **changes, "output": tmp_path / "out"})
    shutil.copytree(study.output / "runs/start", tmp_path / "out/runs/start")
    tried = make_search(settings)
    run_plan(tried, 1, Console(quiet=True))
    trials = Evaluator(settings, Console(quiet=True)).search(tried)
    swapped = settings.model_copy(update={"test_data": settings.val_data, "val_data": settings.test_data})
    elsewhere = Evaluator(swapped, Console(quiet=True))
    on_test = [next(row for row in elsewhere.measure(trial.run) if row.centring == "plain") for trial in trials]
    for trial, row in zip(trials, on_test, strict=True):
        assert trial.scores == {pool: row.numbers[f"{pool}/mean/success@10"] for pool in ("local", "mixed")}
    best = max(trials, key=lambda trial: trial.value)
    assert choose(trials) == {"clip": best.run.point}
    text = " / ".join(f"{score:.3f}" for score in best.scores.values())
    assert f"**{text}**" in search(trials, choose(trials))
    assert command.run(settings) == 0
    page = (tmp_path / "out/report/gcl-study.md").read_text()
    assert search(trials, choose(trials)) in page
    for name in re.findall(r"\((gcl-study-\w+\.png)\)", page):
        with Image.open(tmp_path / "out/report" / name) as picture:
            assert min(picture.size) > 300, name
    assert "gcl-study-search.png" in page


def test_a_measurement_is_kept_until_the_weights_change(study: StudySettings) -> None:
    run = make_plan(study)[0]
    kept = run.folder / "evaluation.json"
    before = kept.stat().st_mtime_ns
    evaluator = Evaluator(study, Console(quiet=True))
    rows = evaluator.measure(run)
    assert kept.stat().st_mtime_ns == before
    assert {row.fusion for row in rows} == {Fusion.RAW, Fusion.UNIT}
    kept.write_text(kept.read_text().replace('"key": "', '"key": "0'))
    assert evaluator.measure(run) == rows
    assert kept.stat().st_mtime_ns != before


def test_a_changed_caption_in_a_folder_of_test_pairs_is_measured_again(study: StudySettings, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for pair in PAIRS[23:]:
        (photos / f"{pair.name}.png").write_bytes(pair.image)
        (photos / f"{pair.name}.txt").write_text("\n".join(pair.captions))
    shutil.copytree(study.output / "runs/start", tmp_path / "out/runs/start")
    changes = {"output": tmp_path / "out", "test_data": [str(photos)], "seeds": [0], "fusions": ["raw"]}
    elsewhere = StudySettings(**{**study.model_dump(exclude_unset=True), **changes})
    run = make_plan(elsewhere)[0]
    before = Evaluator(elsewhere, Console(quiet=True)).measure(run)
    (photos / f"{PAIRS[23].name}.txt").write_text("something else\nnothing like it")
    after = Evaluator(elsewhere, Console(quiet=True)).measure(run)
    assert after != before


def test_fused_vectors_follow_the_fusion_asked_for(study: StudySettings) -> None:
    run = next(run for run in make_plan(study) if run.variant == "clip")
    evaluator = Evaluator(study, Console(quiet=True))
    raw, unit = (evaluator.embed(run, fusion, "test") for fusion in (Fusion.RAW, Fusion.UNIT))
    assert raw.keys["i"].equal(unit.keys["i"])
    summed = functional.normalize(unit.keys["i"] + unit.keys["t"], dim=-1)
    assert unit.keys["it"].allclose(summed, atol=1e-5)
    assert not raw.keys["it"].allclose(summed, atol=1e-3)


def test_a_report_without_a_finished_run_is_refused(study: StudySettings, tmp_path: Path) -> None:
    elsewhere = study.model_copy(update={"output": tmp_path, "report_only": True})
    with pytest.raises(NoPairsError, match="no run of the plan is finished"):
        command.run(elsewhere)


def test_the_recipe_is_a_plan_of_three_starts_and_its_variants(tmp_path: Path) -> None:
    values = tomllib.loads(RECIPE.read_text())
    trained = [name["name"] for name in values["variants"]]
    values |= {name: [str(tmp_path / f"{name}.tar")] for name in ("data", "val_data", "test_data")}
    settings = StudySettings(**values, image_weights=tmp_path / "trunk.safetensors")
    plan = make_plan(settings)
    counts = {name: sum(run.variant == name for run in plan) for name in ("start", *trained)}
    assert counts.pop("start") == counts["clip"] == counts["alignclip"] == 3
    assert {counts[name] for name in trained if name not in ("clip", "alignclip")} == {6}
    assert {run.settings.temperature for run in plan} == {0.01}
    assert [run.variant for run in plan if run.settings.learn_temperature] == ["gcl-R2-learned-temperature"] * 6


@pytest.mark.slow
def test_models_that_fuse_by_themselves_are_compared_too(toy: Toy, tmp_path: Path) -> None:
    data = write_study_data(tmp_path / "data")
    write_text_model(toy, data / "text")
    architecture = write_architecture(data / "mine.json")
    common = {"family": "fusion", "batch_size": 8, "temperature": 0.1, "learning_rate": 1e-3}
    start = {"architecture": str(architecture), "loss": "clip", "num_epochs": 1}
    settings = study_settings(data, tmp_path / "out", fusions=["native"], common=common, start=start, picture="gcl-R2")
    assert command.run(settings) == 0
    page = (tmp_path / "out" / "report" / "gcl-study.md").read_text()
    assert "## Native fusion" in page
    assert "| gcl-R2 |" in page
