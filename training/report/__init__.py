"""The page a run leaves behind: what it was, how it went, and what it changed."""

from anykey.training.report.about import About, ShownPair, shown_pairs
from anykey.training.report.examples import numbers_of_pairs
from anykey.training.report.history import read_history
from anykey.training.report.page import write_report
from anykey.training.report.snapshot import Snapshot, range_of_selection

__all__ = [
    "About",
    "ShownPair",
    "Snapshot",
    "numbers_of_pairs",
    "range_of_selection",
    "read_history",
    "shown_pairs",
    "write_report",
]
