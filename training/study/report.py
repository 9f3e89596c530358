"""Writes a study's report: pages of tables, pictures, and every number as JSON."""

import json
import math
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anykey.benchmark.metrics import Z95
from anykey.program.machine import num_cores, release
from anykey.sources.pairs import without_secrets
from anykey.training.run_folder import effort
from anykey.training.study import tables
from anykey.training.study.evaluation import Evaluator, Trial, choose
from anykey.training.study.measures import CENTRINGS, GR_CLIP, OWN_MEANS, PLAIN, POOLS
from anykey.training.study.plan import Run
from anykey.training.study.plots import plot_bars, plot_front, plot_gap, plot_search, plot_spaces
from anykey.training.study.results import Results
from anykey.training.study.settings import START, StudySettings, Variant
from anykey.training.validation import COMBINATIONS

PAGE, FULL_PAGE, NUMBERS = "gcl-study.md", "gcl-study-full.md", "gcl-study.json"
BARS, GAP, SPACES = "gcl-study-pools.png", "gcl-study-gap.png", "gcl-study-spaces.png"
FRONT, SEARCH = "gcl-study-front.png", "gcl-study-search.png"

_COMBINATIONS = ", ".join(f"`{name}`" for name in COMBINATIONS)
_CENTRING_NAMES = {
    PLAIN: "as trained",
    GR_CLIP: "after mean-centring (GR-CLIP: fused is the sum of the centred halves)",
    OWN_MEANS: "after subtracting each modality's mean, fused vectors' own too",
}


def write_report(
    settings: StudySettings,
    plan: Sequence[Run],
    runs: Sequence[Run],
    results: Results,
    evaluator: Evaluator,
    trials: Sequence[Trial] = (),
) -> Path:
    """Writes `<output>/report/`.

    Args:
        settings: The study.
        plan: All runs.
        runs: The finished ones.
        results: What they reach.
        evaluator: Embeds the pairs for the picture of the spaces.
        trials: What the search tried.

    Returns:
        The report's page.
    """
    folder = settings.output / "report"
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(settings, runs, results) | {"num_planned": len(plan)}
    rows = [{name: value for name, value in asdict(row).items() if name != "gains"} for row in results.rows]
    tried = [{"variant": trial.run.variant, **trial.run.point, **trial.scores} for trial in trials]
    numbers = {**facts, "search": tried, "leads": _leads(settings, results), "rows": rows}
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n")
    if trials:
        plot_search(trials, next(iter(settings.search)), folder / SEARCH)
    plot_front(results, folder / FRONT)
    plot_bars(results, folder / BARS)
    plot_gap(results, folder / GAP)
    plot_spaces(
        {run.variant: evaluator.embed(run, run.fusions[-1], "test") for run in _pictured(settings, runs)},
        folder / SPACES,
    )
    (folder / PAGE).write_text("\n".join(_page(settings, facts, results, trials)))
    (folder / FULL_PAGE).write_text("\n".join(_full_page(results)))
    return folder / PAGE


def _leads(settings: StudySettings, results: Results) -> list[dict[str, Any]]:
    """How far the plan's picture is ahead of every other variant."""
    return [
        {"of": settings.picture, "over": other, "fusion": fusion, "pool": pool, **asdict(lead)}
        for fusion in results.fusions
        for other in results.variants_with(fusion)
        for pool in POOLS
        if other != settings.picture and (lead := results.lead(settings.picture, other, fusion, pool))
    ]


def _page(settings: StudySettings, facts: dict[str, Any], results: Results, trials: Sequence[Trial]) -> Iterator[str]:
    yield "# Losses compared from one start\n"
    yield from _what_was_run(settings, facts)
    if trials:
        yield (
            "Tried on the first seed, local / mixed success@10 on the validation pairs; in bold what each variant was "
            "run with, by the mean of the two:\n"
        )
        yield tables.search(trials, choose(trials))
        yield f"![What the search found, by {next(iter(settings.search)).replace('_', ' ')}]({SEARCH})\n"
    yield f"![Success@10 in local pools against the mixed pool]({FRONT})\n"
    yield f"![Success@10 by loss, in local pools and in the mixed pool]({BARS})\n"
    yield f"![Centroid gap against success@10 in the mixed pool]({GAP})\n"
    yield f"![The three modalities on two principal components]({SPACES})\n"
    baseline = next((name for name in results.variants if name != START), START)
    for fusion in results.fusions:
        yield f"## {fusion.capitalize()} fusion\n"
        yield "As trained:\n"
        yield tables.overview(results, fusion, PLAIN)
        yield "After mean-centring (GR-CLIP):\n"
        yield tables.overview(results, fusion, GR_CLIP)
        yield (
            f"Difference from `{baseline}` without centring, seed by seed; {tables.NOISE} where the seeds alone may "
            "have made it (Student's t, 95 %):\n"
        )
        yield tables.differences(results, fusion, baseline)
        if settings.picture in results.variants_with(fusion):
            yield (
                f"How far `{settings.picture}` is ahead, without centring, in the mean of the seeds; in brackets the "
                "95 % interval over other test pairs (paired bootstrap):\n"
            )
            yield tables.leads(results, fusion, settings.picture)
        for pool in ("local", "mixed"):
            for centring, suffix in ((PLAIN, ""), (GR_CLIP, ", after mean-centring")):
                yield f"success@10 in the {pool} pool{'s' * (pool == 'local')}{suffix}:\n"
                yield tables.by_combination(results, fusion, centring, pool, "success@10")
    yield f"All metrics and gap measures: `{FULL_PAGE}`; every number of every seed: `{NUMBERS}`.\n"


def _full_page(results: Results) -> Iterator[str]:
    yield "# Losses compared from one start: all tables\n"
    yield f"Terms and set-up: `{PAGE}`. Mean and, in brackets, standard deviation over the seeds.\n"
    for fusion in results.fusions:
        for centring in CENTRINGS:
            yield f"## {fusion.capitalize()} fusion, {_CENTRING_NAMES[centring]}\n"
            sections = (
                *tables.every_combination(results, fusion, centring),
                *tables.gap_tables(results, fusion, centring),
            )
            for title, table in sections:
                yield f"{title}:\n\n{table}"


def _what_was_run(settings: StudySettings, facts: dict[str, Any]) -> Iterator[str]:
    yield f"Made by {facts['made_by']}, torch {facts['torch']}, on {facts['machine']}.\n"
    yield f"```bash\n{facts['command']}\n```\n"
    yield (
        f"Seeds {', '.join(str(seed) for seed in facts['seeds'])}: each has a start of its own, and each variant is "
        f"fine-tuned from the start of its seed for equally many steps; the last weights count. "
        f"{facts['num_runs']} of {facts['num_planned']} runs are finished, "
        f"{facts['training_minutes']:.0f} minutes of training steps in all.\n"
    )
    yield (
        "Numbers are the mean and, in brackets, the standard deviation over the seeds; "
        f"the {facts['num_test_pairs']:,} test pairs are the same for all, and what other pairs would have given may "
        f"lie {facts['reach']:.3f} away (half a 95 % interval of a share near a half; differences between variants err "
        f"less). Means are over {_COMBINATIONS} (query > key; i image, t text, it both); "
        "a query holds another caption than the key. Local pools hold keys of one modality; in the mixed pool each "
        "pair is once, as an image, a text or both, and results are averaged over the three ways to deal them out. "
        "Mean-centring takes its means from the validation pairs.\n"
    )
    for name in ("common", "start", "fine_tune"):
        yield f"`{name}`: {_inline(getattr(settings, name))}\n"
    used = [variant for variant in settings.variants if variant.name in facts["variants"]]
    rows = [[variant.name, _settings_of(variant), variant.why] for variant in used]
    yield tables.markdown(["variant", "settings", "why"], rows, align="left")


def _settings_of(variant: Variant) -> str:
    return _inline(variant.settings) if variant.of is None else f"`{variant.share:g}` of the way to `{variant.of}`"


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"`{name} = {json.dumps(value)}`" for name, value in values.items())


def _facts(settings: StudySettings, runs: Sequence[Run], results: Results) -> dict[str, Any]:
    num_pairs = round(results.rows[0].numbers["num_pairs"])
    return {
        "num_test_pairs": num_pairs,
        "reach": Z95 * 0.5 / math.sqrt(num_pairs),
        "made_by": f"anykey {release()}",
        "torch": torch.__version__,
        "machine": settings.machine or f"{platform.machine()}, {num_cores()} cores",
        "command": _command(settings),
        "seeds": results.seeds,
        "variants": results.variants,
        "num_runs": len(runs),
        "training_minutes": sum(effort(folder).minutes for folder in {run.folder for run in runs}),
        "plan": settings.model_dump(mode="json", include={"fusions", "common", "start", "fine_tune", "variants"}),
    }


def _command(settings: StudySettings) -> str:
    """The command as one would type it elsewhere: files by their names, without this machine's folders."""
    words = ["anykey-train", "study", "--config", str(settings.config or "PLAN.toml")]
    for flag, names in (
        ("--data", settings.data),
        ("--val-data", settings.val_data),
        ("--test-data", settings.test_data),
    ):
        words += [flag, ",".join(Path(without_secrets(name)).name for name in names)]
    if settings.image_weights is not None:
        words += ["--image-weights", settings.image_weights.name]
    return shlex.join(words)


def _pictured(settings: StudySettings, runs: Sequence[Run]) -> list[Run]:
    """The start and the plan's `picture`, of the first seed; with several fusions, the last."""
    first = [run for run in runs if run.seed == settings.seeds[0]]
    by_name = {run.variant: run for run in first if run.variant in (START, settings.picture)}
    return list(by_name.values())
