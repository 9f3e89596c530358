"""A plan is one start a seed and from it every variant, alike in all but what the variant says."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from anykey.encoder.fusion import Fusion
from anykey.training.errors import InvalidRecipeError
from anykey.training.run_settings import run_settings, toml_text
from anykey.training.study.plan import Run, make_plan, make_search
from anykey.training.study.settings import StudySettings
from tests.study_runs import study_settings, write_study_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_data(tmp_path_factory.mktemp("data"))


def plan_of(data: Path, **changes: Any) -> list[Run]:
    return make_plan(study_settings(data, Path("study"), **changes))


def test_a_run_takes_the_former_name_of_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_settings("it", {"data": ["x"], "num_workers": 2}).workers == 2
    assert "num_workers has been renamed: write workers" in capsys.readouterr().err


def test_a_variant_whose_loss_knows_no_fused_vectors_runs_once_for_all_fusions(data: Path) -> None:
    plan = plan_of(data, seeds=[0, 1], fusions=["raw", "unit"])
    both = (Fusion.RAW, Fusion.UNIT)
    assert [(run.variant, run.seed, run.fusions) for run in plan] == [
        ("start", 0, both),
        ("start", 1, both),
        ("clip", 0, both),
        ("gcl-R2", 0, (Fusion.RAW,)),
        ("gcl-R2", 0, (Fusion.UNIT,)),
        ("clip", 1, both),
        ("gcl-R2", 1, (Fusion.RAW,)),
        ("gcl-R2", 1, (Fusion.UNIT,)),
    ]
    assert len({run.folder for run in plan}) == len(plan)


def test_a_run_starts_from_the_last_weights_of_the_start_with_its_seed(data: Path) -> None:
    folders = {run.seed: run.folder for run in plan_of(data, seeds=[3, 5]) if run.variant == "start"}
    tuned = [run for run in plan_of(data, seeds=[3, 5]) if run.variant != "start"]
    assert len(tuned) == 4
    for run in tuned:
        assert run.needs == folders[run.seed]
        assert run.settings.start == str(folders[run.seed] / "last")
        assert run.settings.seed == run.seed


def test_a_variant_wins_over_the_plans_common_settings_and_changes_nothing_else(data: Path) -> None:
    variants = [{"name": "warm", "settings": {"loss": "gcl", "temperature": 0.05}}, {"name": "cold"}]
    _, warm, cold = plan_of(data, variants=variants)
    assert (warm.settings.temperature, cold.settings.temperature) == (0.05, 0.01)
    differing = {
        name for name, value in warm.settings.model_dump().items() if getattr(cold.settings, name) != value
    } - {"output"}
    assert differing == {"temperature"}


def test_the_environment_changes_no_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYKEY_TRAIN_LEARNING_RATE", "0.5")
    monkeypatch.setenv("ANYKEY_TRAIN_MIRROR_IMAGES", "true")
    assert {(run.settings.learning_rate, run.settings.mirror_images) for run in plan_of(data)} == {(1e-3, False)}


def test_only_leaves_the_other_variants_out_but_not_the_start(data: Path) -> None:
    assert [run.variant for run in plan_of(data, only=["gcl-R2"])] == ["start", "gcl-R2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": [{"name": "x", "settings": {"num_epochs": 9}}]}, "'x' of the plan sets num_epochs, which the co"),
        ({"variants": [{"name": "x", "settings": {"seed": 9}}]}, "'x' of the plan sets seed, which the study decides"),
        ({"common": {"device": "cpu"}}, r"\[common\] of the plan sets device"),
        ({"variants": [{"name": "x", "settings": {"reading": "R9"}}]}, "settings of x/raw: reading: "),
        ({"search": {"num_epochs": [1, 2]}}, r"\[search\] of the plan sets num_epochs, which the comparison"),
        ({"start": {"no_such": 1}}, "settings of start, seed 0: no_such: "),
    ],
)
def test_a_plan_that_compares_unlike_runs_or_cannot_run_is_refused(
    data: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRecipeError, match=message):
        plan_of(data, **changes)


def test_a_search_tries_every_point_with_every_variant_on_the_first_seed(data: Path) -> None:
    search = {"temperature": [0.01, 0.03], "learning_rate": [0.001, 0.002]}
    settings = study_settings(data, Path("study"), seeds=[3, 5], search=search)
    tried = make_search(settings)
    assert [(run.variant, run.seed) for run in tried] == [("start", 3), *[("clip", 3)] * 4, *[("gcl-R2", 3)] * 4]
    found = [(run.settings.temperature, run.settings.learning_rate) for run in tried[1:5]]
    assert found == [(0.01, 0.001), (0.01, 0.002), (0.03, 0.001), (0.03, 0.002)]
    plan = make_plan(settings, {"clip": tried[3].point, "gcl-R2": tried[6].point})
    again = [run.folder for run in plan if run.seed == 3]
    assert again == [tried[0].folder, tried[3].folder, tried[6].folder], "what was chosen is not trained twice"
    later = [(run.settings.temperature, run.settings.learning_rate) for run in plan if run.seed == 5 and run.needs]
    assert later == [(0.03, 0.001), (0.01, 0.002)]


def test_a_point_between_start_and_runs_trains_nothing_of_its_own(data: Path) -> None:
    variants = [{"name": "a", "settings": {"loss": "clip"}}, {"name": "a-half", "of": "a", "share": 0.5}]
    settings = study_settings(data, Path("study"), seeds=[3], variants=variants, search={"temperature": [0.01, 0.03]})
    assert [run.variant for run in make_search(settings)] == ["start", "a", "a"]
    _, whole, half = make_plan(settings, {"a": {"temperature": 0.03}})
    assert (half.variant, half.share, half.folder) == ("a-half", 0.5, whole.folder)
    assert half.settings == whole.settings
    alone = study_settings(data, Path("study"), seeds=[3], variants=variants, only=["a-half"])
    assert [(run.variant, run.folder.name) for run in make_plan(alone)] == [("start", "seed-3"), ("a-half", "seed-3")]


def test_the_recipe_of_sums_gives_every_loss_the_same_search(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[3] / "training" / "recipes" / "gcl-sum-study.toml"
    values = tomllib.loads(recipe.read_text())
    values |= {name: [str(tmp_path / f"{name}.tar")] for name in ("data", "val_data", "test_data")}
    settings = StudySettings(**values, image_weights=tmp_path / "trunk.safetensors")
    tried = [run.variant for run in make_search(settings) if run.needs]
    trained = [variant.name for variant in settings.variants if variant.of is None]
    assert {name: tried.count(name) for name in tried} == dict.fromkeys(trained, 8)
    assert settings.picture in tried


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": []}, "no variants"),
        ({"test_data": []}, "no --test-data"),
        ({"variants": [{"name": "start"}]}, "names of their own"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "names of their own"),
        ({"variants": [{"name": "a/b"}]}, "should match pattern"),
        ({"only": ["b"]}, "--only names no variant of the plan: b"),
        ({"search": {"temperature": [0.1]}, "fusions": ["raw", "unit"]}, r"\[search\] has one of --fusions"),
        ({"search": {"temperature": []}}, r"\[search\] has nothing to try for temperature"),
        ({"variants": [{"name": "a", "share": 0.5}]}, "'a' has a share, and says not of which variant"),
        ({"variants": [{"name": "a", "of": "b", "share": 0.5}]}, "made of the runs of 'b', which has none"),
        ({"variants": [{"name": "a"}, {"name": "b", "of": "a", "settings": {"seed": 1}}]}, "no settings of its own"),
    ],
)
def test_settings_without_a_comparison_are_refused(data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan_of(data, **changes)


def test_settings_written_as_toml_read_back_equal() -> None:
    given = {
        "data": ['a "quoted"\\path\n', "b\u00e9\U0001f600"],
        "output": Path("runs/x"),
        "learning_rate": 1e-05,
        "image_mean": (0.5, 0.25, 1.0),
        "lock_image": False,
        "reading": "R4",
        "val_data": [],
    }
    settings = run_settings("it", given)
    again = run_settings("it", tomllib.loads(toml_text(settings)))
    assert again == settings
    assert again.model_fields_set == given.keys() | {"overwrite"}


def test_a_study_of_models_that_fuse_by_themselves_sets_no_fusion(data: Path) -> None:
    plan = plan_of(data, fusions=["native"], common={"family": "fusion"})
    assert [(run.variant, run.fusions, run.settings.fusion) for run in plan] == [
        ("start", ("native",), None),
        ("clip", ("native",), None),
        ("gcl-R2", ("native",), None),
    ]
    assert plan[2].folder.parts[-2:] == ("native", "seed-0")
    with pytest.raises(ValidationError, match="--fusions native goes alone"):
        plan_of(data, fusions=["native", "raw"])


def test_the_recipe_for_native_fusion_is_a_plan_of_three_seeds(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[3] / "training" / "recipes" / "gcl-fusion-study.toml"
    values = tomllib.loads(recipe.read_text())
    values |= {name: [str(tmp_path / f"{name}.tar")] for name in ("data", "val_data", "test_data")}
    plan = make_plan(StudySettings(**values, image_weights=tmp_path / "trunk.safetensors"))
    assert [run.variant for run in plan if run.seed == 1] == ["start", "clip", "pairwise", "gcl-R2", "gcl-R1"]
    assert {(run.settings.family, run.settings.temperature) for run in plan} == {("fusion", 0.02)}
