"""A study's tables, in Markdown: a row for each variant, mean and standard deviation over the seeds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from anykey.training.study.evaluation import Trial
from anykey.training.study.measures import GR_CLIP, METRICS, PLAIN, POOLS
from anykey.training.study.plan import in_words
from anykey.training.study.results import Results
from anykey.training.study.settings import StudyFusion
from anykey.training.validation import COMBINATIONS, MODALITIES, MODALITY_PAIRS

NOISE = "~"  # stands after a difference that the seeds alone may have made
OVERVIEW = {
    "local success@10": "local/mean/success@10",
    "mixed success@10": "mixed/mean/success@10",
    "local nDCG@10": "local/mean/ndcg@10",
    "mixed nDCG@10": "mixed/mean/ndcg@10",
    "mixed success@1": "mixed/mean/success@1",
    "mixed success@50": "mixed/mean/success@50",
    "gap i-t": "gap/i-t",
}
_GAPS = {f"gap {first}-{second}": f"gap/{first}-{second}" for first, second in MODALITY_PAIRS}
_COVARIANCES = {f"{first}-{second}": f"covariance/{first}-{second}" for first, second in MODALITY_PAIRS}
_COSINES = {f"cosine {name}": f"cosine/{name}" for name in COMBINATIONS}
_SPREAD = {f"uniformity {name}": f"uniformity/{name}" for name in (*MODALITIES, "mixed")}
_CONFUSION = {f"confusion {name}": f"confusion/{name}" for name in COMBINATIONS}
_FIRST = {f"{query} finds {key}": f"rank1/{query}/{key}" for query in ("i", "t", "it") for key in MODALITIES}


def overview(results: Results, fusion: StudyFusion, centring: str) -> str:
    """Means over the five combinations in both pools, and the gap."""
    return _table(results, fusion, centring, OVERVIEW)


def by_combination(results: Results, fusion: StudyFusion, centring: str, pool: str, metric: str) -> str:
    """One metric in one pool, a column for each combination of query and key."""
    columns = {name: f"{pool}/{name}/{metric}" for name in (*COMBINATIONS, "mean")}
    return _table(results, fusion, centring, columns)


def gap_tables(results: Results, fusion: StudyFusion, centring: str) -> Iterator[tuple[str, str]]:
    """Titles and tables of the gap measures."""
    yield "Distance of the modalities' mean keys", _table(results, fusion, centring, _GAPS)
    yield "Distance of the keys' covariances (CORAL)", _table(results, fusion, centring, _COVARIANCES, ".1e")
    yield "Mean cosine of the true pairs", _table(results, fusion, centring, _COSINES)
    yield "Uniformity (lower: more evenly spread)", _table(results, fusion, centring, _SPREAD)
    yield "Share of a mixed pool's first ten that is of another modality", _table(results, fusion, centring, _CONFUSION)
    yield "What the first hit in the mixed pool is, by query", _table(results, fusion, centring, _FIRST)


def differences(results: Results, fusion: StudyFusion, baseline: str) -> str:
    """Against the baseline of the same seed and fusion; centring counts as one more variant."""
    columns = {name: OVERVIEW[name] for name in ("local success@10", "mixed success@10", "mixed nDCG@10")}
    rows: list[list[str]] = []
    for centring, suffix in ((PLAIN, ""), (GR_CLIP, " + centring")):
        for variant in results.variants_with(fusion):
            if (variant, centring) != (baseline, PLAIN):
                cells = [_difference(results, fusion, (variant, centring), baseline, name) for name in columns.values()]
                rows.append([variant + suffix, *cells])
    return markdown(["variant", *columns], rows)


def leads(results: Results, fusion: StudyFusion, variant: str) -> str:
    """How far a variant is ahead of every other, on the same test pairs."""
    rows = []
    for other in results.variants_with(fusion):
        found = [lead for pool in POOLS if (lead := results.lead(variant, other, fusion, pool))]
        if other != variant and found:
            rows.append([other, *(lead.text() for lead in found)])
    return markdown([f"`{variant}` against", *(f"{pool} success@10" for pool in POOLS)], rows)


def search(trials: Sequence[Trial], chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """What each variant reached with each point of the search on the validation pairs: local / mixed success@10."""
    points = list(dict.fromkeys(in_words(trial.run.point) for trial in trials))
    rows: dict[str, list[str]] = {}
    for trial in trials:
        text = " / ".join(f"{score:.3f}" for score in trial.scores.values())
        is_chosen = chosen.get(trial.run.variant) == trial.run.point
        row = rows.setdefault(trial.run.variant, [""] * len(points))
        row[points.index(in_words(trial.run.point))] = f"**{text}**" if is_chosen else text
    return markdown(["variant", *points], [[variant, *cells] for variant, cells in rows.items()])


def every_combination(results: Results, fusion: StudyFusion, centring: str) -> Iterator[tuple[str, str]]:
    """Titles and tables of every metric in both pools."""
    for pool in POOLS:
        for metric in METRICS:
            yield (
                f"{pool} pool{'s' * (pool == 'local')}, {metric}",
                by_combination(results, fusion, centring, pool, metric),
            )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], align: Literal["left", "right"] = "right") -> str:
    """A table; right of the first column, numbers stand to the `right` and texts to the `left`."""
    rules = ["---", *["---:" if align == "right" else "---"] * (len(head) - 1)]
    lines = [_cells(head), rules, *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(texts: Sequence[str]) -> list[str]:
    """Texts that end neither their cell nor their line."""
    return [" ".join(text.split()).replace("|", "\\|") for text in texts]


def _table(results: Results, fusion: StudyFusion, centring: str, columns: Mapping[str, str], form: str = ".3f") -> str:
    rows = []
    for variant in results.variants_with(fusion):
        spreads = [results.spread(variant, fusion, centring, name) for name in columns.values()]
        rows.append([variant, *("" if spread is None else spread.text(form) for spread in spreads)])
    return markdown(["variant", *columns], rows)


def _difference(results: Results, fusion: StudyFusion, which: tuple[str, str], baseline: str, name: str) -> str:
    own = results.spread(which[0], fusion, which[1], name)
    other = results.spread(baseline, fusion, PLAIN, name)
    if own is None or other is None:
        return ""
    difference = own.minus(other)
    return difference.text("+.3f") + (f" {NOISE}" if difference.is_noise else "")
