"""`make fuzz`: each target in a process of its own for a bounded time, and what was found as a page."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.fuzzing.seeds import SEEDS, write_seeds, write_words
from benchmarks.recorded import kept_notes
from benchmarks.speed_report import processor

CASE_S, CASE_MIB = 10, 2048  # what takes longer, or makes the process larger, is a finding
GRACE_S = 600.0  # for the start, where others use the machine, too
WHAT = {
    "images": "`decode_image`: a small RGB picture, or `InvalidItemError`",
    "forms": "`query_from_multipart`: a query, or an error that is answered with 4xx",
    "filters": "`parse_condition`, and what the index finds by it: the rows that the filter means, also once it is "
    "written and read again",
    "searches": "`query_from_json`: a query that is known by its digest, or an error that is answered with 4xx",
    "shards": "`read_contents`: members that lie within the file, or what is damaged in one line",
}


@dataclass(frozen=True)
class Finding:
    """What came of a target.

    Attributes:
        target: Its name.
        num_cases: How many cases were tried.
        num_lines: What libFuzzer counts as covered, edges between lines of Python.
        seconds: How long it ran.
        case: What it could not bear, a file; `None` if nothing.
        said: The end of what the process said then.
    """

    target: str
    num_cases: int
    num_lines: int
    seconds: int
    case: Path | None
    said: str


def fuzz(target: str, folder: Path, seconds: int, seed: int) -> Finding:
    """Runs one target.

    Args:
        target: Its name.
        folder: Where cases go.
        seconds: For how long.
        seed: Decides the changes; 0 draws them.
    """
    corpus, cases = folder / target, folder / "found" / target
    corpus.mkdir(parents=True, exist_ok=True)
    cases.mkdir(parents=True, exist_ok=True)
    write_seeds(target, corpus)
    write_words(target, folder / f"{target}.dict")
    flags = [f"-max_total_time={seconds}", f"-timeout={CASE_S}", f"-rss_limit_mb={CASE_MIB}", "-print_final_stats=1"]
    flags += [f"-dict={folder / f'{target}.dict'}", f"-artifact_prefix={cases}/", f"-seed={seed}", str(corpus)]
    command = [sys.executable, "-m", "benchmarks.fuzzing.targets", target, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + GRACE_S)
    said = done.stdout.decode("utf-8", "replace")
    found = sorted(cases.iterdir(), key=lambda path: path.stat().st_size)
    if done.returncode and not found:
        raise RuntimeError(f"{target} ended with {done.returncode}: {said[-2000:]}")
    covered = [int(count) for count in re.findall(r" cov: (\d+)", said)]
    cases_tried = [int(count) for count in re.findall(r"^#(\d+)\s", said, re.MULTILINE)]
    ran = re.search(r"Done \d+ runs in (\d+) second", said)
    return Finding(
        target,
        max(cases_tried, default=0),
        max(covered, default=0),
        int(ran[1]) if ran else seconds,
        found[0] if done.returncode else None,
        said[-4000:] if done.returncode else "",
    )


def _page(findings: Sequence[Finding], seconds: int, at_once: int, load: float) -> list[str]:
    lines = [
        "# What strangers' bytes may be",
        "",
        "`make fuzz` gives ever other bytes to what reads strangers' bytes, and keeps those that reach lines which",
        f"none before reached (atheris {version('atheris')}, which is libFuzzer). It begins with sound cases. A",
        "finding is an exception that no caller is told to expect, a wrong result, a case that takes more than",
        f"{CASE_S} s, or a process above {CASE_MIB} MiB.",
        "Findings are mended, and kept as cases in the tests.",
        "",
        f"{processor()}, {at_once} targets at a time, {seconds} s each; the load of the machine was {load:.1f} before",
        "this began.",
        "",
        "| target | what it has to give | cases | edges covered | finding |",
        "|---|---|---:|---:|---|",
    ]
    for finding in findings:
        name = "none" if finding.case is None else f"`{finding.case.name}` after {finding.seconds} s"
        lines.append(
            f"| {finding.target} | {WHAT[finding.target]} | {finding.num_cases:,} | {finding.num_lines:,} | {name} |"
        )
    found = [finding.target for finding in findings if finding.case is not None]
    verdict = f"To be mended: what {', '.join(found)} found." if found else "Nothing was found."
    return [*lines, "", verdict, ""]


def main() -> int:
    """Runs all targets; gives 1 back if any found something."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page that is written")
    parser.add_argument("--seconds", type=int, default=120, help="how long each target runs")
    parser.add_argument("--at-once", type=int, default=2, help="how many targets run at a time")
    parser.add_argument("--seed", type=int, default=0, help="decides what is tried; 0: another one each time")
    parser.add_argument("--only", nargs="*", choices=sorted(SEEDS), default=sorted(SEEDS), help="targets")
    parser.add_argument("--cases", type=Path, help="folder that keeps the cases from one run to the next")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="anykey-fuzz-") as temporary:
        folder = arguments.cases or Path(temporary)
        run = partial(fuzz, folder=folder, seconds=arguments.seconds, seed=arguments.seed)
        with ThreadPoolExecutor(arguments.at_once) as pool:
            findings = list(pool.map(run, arguments.only))
        page_lines = _page(findings, arguments.seconds, arguments.at_once, load)
        page = "\n".join([*page_lines, *kept_notes(arguments.output), ""])
        arguments.output.write_text(page, encoding="utf-8")
        sys.stdout.write(page)
        for finding in findings:
            if finding.case is not None:
                sys.stdout.write(f"\n{finding.target}: {finding.case.read_bytes()!r}\n{finding.said}\n")
    return int(any(finding.case is not None for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
