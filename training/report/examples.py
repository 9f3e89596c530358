"""A few queries with what they found first, before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anykey.training.report.about import ShownPair
from anykey.training.report.snapshot import EXAMPLES, Snapshot
from anykey.training.report.tables import combination_name


@dataclass(frozen=True)
class Side:
    """One item on the page: a picture, a text, or both.

    Attributes:
        picture: The picture; `None` where the item has none.
        text: The text; empty where it has none.
        is_own: Whether it is the key that its query should find.
    """

    picture: str | None
    text: str
    is_own: bool = False


@dataclass(frozen=True)
class Found:
    """What one query found in one state.

    Attributes:
        state: Before or after.
        rank: Rank of the query's own key.
        hits: The first keys.
    """

    state: str
    rank: int
    hits: Sequence[Side]


@dataclass(frozen=True)
class Example:
    """A query, and what it found in every state."""

    query: Side
    found: Sequence[Found]


def numbers_of_pairs(states: Sequence[Snapshot]) -> set[int]:
    """The pairs that the examples of these states show."""
    shown = [rows for state in states for name, rows in state.examples.items() if _shows(name)]
    return {int(number) for rows in shown for number in rows.flat}


def example_lists(states: Mapping[str, Snapshot], pairs: Mapping[int, ShownPair]) -> list[tuple[str, list[Example]]]:
    """Examples by kind of query and key; none where the states show other pairs, or pairs that are not at hand."""
    snapshots = list(states.values())
    if not pairs or not numbers_of_pairs(snapshots) <= pairs.keys():
        return []
    rows = [state.examples["rows"].tolist() for state in snapshots]
    if any(other != rows[0] for other in rows):
        return []
    return [
        (combination_name(combination), _examples(states, pairs, combination, rows[0]))
        for combination in EXAMPLES
        if all(f"hits/{combination}" in state.examples for state in snapshots)
    ]


def _shows(name: str) -> bool:
    return name == "rows" or name.startswith("hits/")


def _examples(
    states: Mapping[str, Snapshot], pairs: Mapping[int, ShownPair], combination: str, rows: Sequence[int]
) -> list[Example]:
    query, key = combination.split(">")
    examples = []
    for place, row in enumerate(rows):
        found = [
            Found(
                name,
                int(state.examples[f"rank/{combination}"][place]),
                [
                    _side(pairs[hit], key, pairs[hit].key_text, hit == row)
                    for hit in state.examples[f"hits/{combination}"][place].tolist()
                ],
            )
            for name, state in states.items()
        ]
        examples.append(Example(_side(pairs[row], query, pairs[row].query_text), found))
    return examples


def _side(pair: ShownPair, modality: str, text: str, is_own: bool = False) -> Side:
    return Side(pair.picture if "i" in modality else None, text if "t" in modality else "", is_own)
