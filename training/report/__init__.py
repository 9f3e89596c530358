"""The page a run leaves behind: what it was, how it went, and what it changed."""

from training.report.page import write_report
from training.report.snapshot import Snapshot

__all__ = ["Snapshot", "write_report"]
