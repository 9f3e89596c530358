"""The report's tables: what was measured before and after, side by side, with what chance may have done to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anykey.training.report.noise import Gains, Range, of_change, of_mean, of_replicates
from anykey.training.report.pictures import MODALITY_NAMES
from anykey.training.report.snapshot import CUTOFFS, NDCG_CUTOFFS, Snapshot
from anykey.training.validation import ALL_COMBINATIONS, COMBINATIONS, MODALITIES, MODALITY_PAIRS, shares_image

States = Mapping[str, Snapshot]


@dataclass(frozen=True)
class Value:
    """One number in every state.

    Attributes:
        texts: As printed, a state each; a dash where it was not measured.
        change: The difference, with its sign; empty where there is none to give.
        verdict: `better`, `worse`, `noise` where chance may have made the difference, or empty where neither is good.
        ranges: The 95 % interval of each text, as printed; empty where none is known.
        change_range: That of the difference.
        size: How many queries the number is of, as printed; empty where that is not what it is of.
    """

    texts: Sequence[str]
    change: str
    verdict: str
    ranges: Sequence[str] = field(default_factory=list)
    change_range: str = ""
    size: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: What the numbers are about; an arrow stands between query and key.
        values: One for each of the table's groups.
        role: `muted` where it is there for completeness only, `mean` of the rows above, or empty.
    """

    label: str
    values: Sequence[Value]
    role: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers of all states: a group of columns for each of `groups`."""

    title: str
    groups: Sequence[str]
    rows: Sequence[Row]

    @property
    def has_sizes(self) -> bool:
        """Whether a column says of how many queries the numbers are."""
        return any(value.size for row in self.rows for value in row.values)


@dataclass(frozen=True)
class Cell:
    """One combination in a grid: the number as printed, its interval, and from 0 to 1 for the shade."""

    text: str
    shade: float
    muted: bool
    range: str = ""


@dataclass(frozen=True)
class Grid:
    """The nine combinations of one pool in one state: a row for each query, a column for each key."""

    title: str
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class _Scale:
    """How one kind of number is printed, and which way is good (0: neither)."""

    text: Callable[[float], str]
    good: int = 0
    factor: float = 1.0


_PERCENT = _Scale("{:.1f}".format, good=1, factor=100.0)
_SHARE = _Scale("{:.1f}".format, factor=100.0)
_PLAIN = _Scale("{:.3f}".format)
METRICS = (*(f"success@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in NDCG_CUTOFFS))  # as a snapshot's gains have them
_SMALL = _Scale("{:.2e}".format)


def headline_tables(states: States) -> list[Table]:
    """What a reader looks for first."""
    lines = (
        ("Mean success@10, local pools (%)", "local/mean/success@10", _PERCENT),
        ("Mean success@10, mixed pool (%)", "mixed/mean/success@10", _PERCENT),
        ("Distance of mean image and text", "gap/i-t", _PLAIN),
    )
    return [Table("", [""], [Row(label, [_value(states, name, scale)]) for label, name, scale in lines])]


def success_tables(states: States) -> list[Table]:
    """One table a metric: the nine combinations, in the local and in the mixed pool, and their mean."""
    return [_success_table(states, metric) for metric in METRICS]


def gap_tables(states: States) -> list[Table]:
    """The measures of the modality gap."""
    pairs = [
        Row(
            f"{MODALITY_NAMES[first]} - {MODALITY_NAMES[second]}",
            [
                _value(states, f"gap/{first}-{second}", _PLAIN),
                _value(states, f"covariance/{first}-{second}", _SMALL),
            ],
        )
        for first, second in MODALITY_PAIRS
    ]
    combinations = [
        Row(
            combination_name(name),
            [_value(states, f"cosine/{name}", _PLAIN), _value(states, f"confusion/{name}", _SHARE)],
            _role(name),
        )
        for name in _judged_first()
    ]
    first_hits = [
        Row(
            f"{MODALITY_NAMES[query]} queries", [_value(states, f"rank1/{query}/{name}", _SHARE) for name in MODALITIES]
        )
        for query in MODALITIES
    ]
    names = {**MODALITY_NAMES, "mixed": "mixed pool"}
    spread = [Row(name, [_value(states, f"uniformity/{key}", _PLAIN)]) for key, name in names.items()]
    return [
        Table("Between modalities", ["Distance of means", "Distance of covariances"], pairs),
        Table("Between query and key", ["Cosine of true pairs", "Other modality in the first 10 (%)"], combinations),
        Table("First hit in the mixed pool (%)", [f"is {MODALITY_NAMES[name]}" for name in MODALITIES], first_hits),
        Table("Uniformity (lower: more evenly spread)", [""], spread),
    ]


def success_grids(states: States, metric: str = "success@10") -> list[Grid]:
    """The nine combinations at a glance: a grid for each pool and state."""
    grids = []
    for pool in ("local", "mixed"):
        for name, state in states.items():
            title = f"{'Local pools' if pool == 'local' else 'Mixed pool'}, {name}"
            rows = [
                (MODALITY_NAMES[query], [_cell(state, pool, f"{query}>{key}", metric) for key in MODALITIES])
                for query in MODALITIES
            ]
            grids.append(Grid(title, rows))
    return grids


def combination_name(combination: str) -> str:
    """A combination in words; the page sets an arrow for `>`."""
    query, key = combination.split(">")
    return f"{MODALITY_NAMES[query]} > {MODALITY_NAMES[key]}"


def _success_table(states: States, metric: str) -> Table:
    def row(label: str, name: str, role: str) -> Row:
        return Row(label, [_value(states, f"{pool}/{name}/{metric}", _PERCENT) for pool in ("local", "mixed")], role)

    rows = [row(combination_name(name), name, _role(name)) for name in _judged_first()]
    rows.insert(len(COMBINATIONS), row("mean of these", "mean", "mean"))
    title = metric.replace("ndcg", "nDCG").replace("success", "Success")
    return Table(f"{title} (%)", ["Local pools", "Mixed pool"], rows)


def _judged_first() -> list[str]:
    return sorted(ALL_COMBINATIONS, key=shares_image)


def _role(combination: str) -> str:
    return "muted" if shares_image(combination) else ""


def _value(states: States, name: str, scale: _Scale) -> Value:
    found = [state.numbers.get(name) for state in states.values()]
    texts = ["-" if number is None else scale.text(number * scale.factor) for number in found]
    each = [_range(state, name, number) for state, number in zip(states.values(), found, strict=True)]
    ranges = ["" if own is None else _ends(own, scale) for own in each]
    size = next((f"{own.num:,}" for own in each if own is not None and own.num), "")
    if len(found) < 2 or found[0] is None or found[-1] is None:
        return Value(texts, "", "", ranges, size=size)
    difference = (found[-1] - found[0]) * scale.factor
    change = scale.text(difference)
    is_nothing = float(change) == 0
    shown = change.lstrip("-") if is_nothing else ("" if difference < 0 else "+") + change
    first, *_, last = states.values()
    own = _range_of_change(first, last, name, found[-1] - found[0])
    verdict = "" if is_nothing or not scale.good else ("better" if difference * scale.good > 0 else "worse")
    if own is None:
        return Value(texts, shown, verdict, ranges, size=size)
    return Value(texts, shown, "noise" if own.holds_zero else verdict, ranges, _ends(own, scale, "+"), size)


def _cell(state: Snapshot, pool: str, combination: str, metric: str) -> Cell:
    name = f"{pool}/{combination}/{metric}"
    number = state.numbers.get(name)
    text = "-" if number is None else _PERCENT.text(number * _PERCENT.factor)
    own = _range(state, name, number)
    return Cell(text, number or 0.0, shares_image(combination), "" if own is None else _ends(own, _PERCENT))


def _range(state: Snapshot, name: str, number: float | None) -> Range | None:
    """A number's interval, if it was measured and what it takes was kept."""
    if number is None:
        return None
    if parts := _gains(state, name):
        return of_mean(parts)
    return of_replicates(number, state.left_out[name].astype(np.float64)) if name in state.left_out else None


def _range_of_change(before: Snapshot, after: Snapshot, name: str, change: float) -> Range | None:
    """Interval of a difference between two states measured on the same pairs."""
    then, now = _gains(before, name), _gains(after, name)
    if then and len(then) == len(now):
        return of_change(then, now)
    if name in before.left_out and name in after.left_out:
        return of_replicates(change, (after.left_out[name] - before.left_out[name]).astype(np.float64))
    return None


def _gains(state: Snapshot, name: str) -> list[Gains]:
    """Pairs and gains behind a number of the name `pool/combination/metric`; of each combination that a mean is of."""
    pool, _, rest = name.partition("/")
    combination, _, metric = rest.partition("/")
    if metric not in METRICS:
        return []
    wanted = COMBINATIONS if combination == "mean" else [combination]
    names = [f"{pool}/{each}" for each in wanted if f"{pool}/{each}" in state.gains]
    place = METRICS.index(metric)
    return [(state.asked[each], state.gains[each][place].astype(np.float64)) for each in names]


def _ends(own: Range, scale: _Scale, sign: str = "") -> str:
    """Both ends of an interval, as their number is printed; a difference's have signs."""
    texts = [scale.text(end * scale.factor) for end in (own.low, own.high)]
    texts = [text.lstrip("-") if float(text) == 0 else text for text in texts]
    if sign:
        texts = [text if text.startswith("-") or float(text) == 0 else sign + text for text in texts]
    return " to ".join(texts)
