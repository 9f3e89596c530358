"""`make chaos`: breaks one thing after the other under load, and writes what became of requests as a page."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.scenarios import NotHereError, Scenario, Scene, all_scenarios
from benchmarks.chaos.traffic import Traffic
from benchmarks.chaos.world import World
from benchmarks.recorded import kept_notes
from benchmarks.speed_report import processor

MOST_MEMORY_BYTES = 512 * 2**20  # beyond what it has once it has answered for a while
RECOVERED_S = 1.0  # without a refusal


@dataclass
class Finding:
    """What became of requests in a scenario.

    Attributes:
        name: Of the scenario.
        searches: Outcomes of searches.
        changes: Outcomes of changes.
        others: Of requests that only this scenario made.
        faults: What must not be, in words.
        recovery_s: From the mending to the last answer that was not 200.
        slowest_s: The longest time to an answer.
        notes: More, in words.
        skipped: Why it was not run, or `None`.
    """

    name: str
    searches: Counter[str]
    changes: Counter[str]
    others: Counter[str]
    faults: list[str]
    recovery_s: float = 0.0
    slowest_s: float = 0.0
    notes: str = ""
    skipped: str | None = None


def run(scenario: Scenario, scene: Scene) -> Finding:
    """Runs a scenario and sees whether all is as it was once it is mended."""
    tally_of = scene.traffic
    scene.notes.clear()
    tally_of.begin()
    try:
        scenario.run(scene)
    except NotHereError as error:
        return Finding(scenario.name, Counter(), Counter(), Counter(), [], skipped=str(error))
    mended_s = time.monotonic()
    scene.world.wait_until_ready()
    tally = tally_of.tally
    while time.monotonic() < max(tally.last_refusal_s + RECOVERED_S, mended_s + scene.calm_s / 2):
        if time.monotonic() > mended_s + 60:
            tally.faults.append("a minute after it was mended, requests are still refused")
            break
        time.sleep(0.1)
    tally_of.check()
    seen = {outcome for kind, outcome in tally.outcomes if kind in ("search", "change", "look", "overload")}
    not_allowed = seen - scenario.allowed
    faults = [*tally.faults, *(f"{outcome} is not for a client to see" for outcome in sorted(not_allowed))]
    return Finding(
        scenario.name,
        tally.of("search"),
        tally.of("change"),
        tally.of("overload", "hostile"),
        faults,
        max(0.0, tally.last_refusal_s - mended_s),
        tally.slowest_s,
        "; ".join(scene.notes),
    )


def main() -> int:
    """Runs all scenarios; gives 1 back if any found a fault."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page that is written")
    parser.add_argument("--calm-s", type=float, default=6.0, help="how long most faults last")
    parser.add_argument("--overload-s", type=float, default=600.0, help="how long ten times the load lasts")
    parser.add_argument("--num-hostile", type=int, default=1_000, help="number of hostile requests")
    parser.add_argument("--only", nargs="*", default=[], help="words of the names of scenarios to run")
    arguments = parser.parse_args()
    chosen = [each for each in all_scenarios() if not arguments.only or any(w in each.name for w in arguments.only)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="anykey-chaos-") as folder:
        world = World(Path(folder))
        try:
            findings, memory = _run_all(world, chosen, arguments)
        finally:
            world.close()
        unforeseen = world.unforeseen()
    page = "\n".join([*_page(findings, memory, unforeseen, arguments, load), *kept_notes(arguments.output), ""])
    arguments.output.write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    return int(not _is_clean(findings, memory, unforeseen))


def _run_all(
    world: World, chosen: list[Scenario], arguments: argparse.Namespace
) -> tuple[list[Finding], tuple[int, int]]:
    findings, most = [], 0
    world.start_redis()
    world.start()
    with Traffic(world.url) as traffic:
        scene = Scene(world, traffic, arguments.calm_s, arguments.overload_s, arguments.num_hostile)
        time.sleep(arguments.calm_s)
        first = world.resident_bytes()
        for scenario in chosen:
            findings.append(run(scenario, scene))
            most = max(most, world.resident_bytes())
            sys.stderr.write(f"{scenario.name}: {findings[-1].faults or 'as it should be'}\n")
    return findings, (first, most)


def _page(
    findings: list[Finding],
    memory: tuple[int, int],
    unforeseen: list[str],
    arguments: argparse.Namespace,
    load: float,
) -> list[str]:
    """The results as Markdown, an empty line last."""
    lines = [
        "# What breaks, and what clients see of it",
        "",
        "`make chaos` starts a service whose index is changed while it is searched, and breaks what it stands on.",
        "Three clients search for texts whose best hit is known, and two change keys and remember what was",
        "acknowledged. A search that finds another key first, and a change that was acknowledged and is gone, are",
        "faults. So are answers that clients are not told to expect: they may see 429, 503 and 504, and no answer",
        "only from a process that was ended.",
        "",
        f"{processor()}, {os.cpu_count()} cores, no GPU; the load of the machine was {load:.1f} before this began. A",
        f"fault lasts {arguments.calm_s:g} s unless the table says otherwise.",
        "",
        "| what breaks | searches | changes | until all is well again | slowest answer | faults |",
        "|---|---|---|---:|---:|---|",
    ]
    for finding in findings:
        if finding.skipped is not None:
            lines.append(f"| {finding.name} | not run: {finding.skipped} | | | | |")
            continue
        lines.append(
            f"| {finding.name} | {_counted(finding.searches)} | {_counted(finding.changes)} "
            f"| {finding.recovery_s:.1f} s | {finding.slowest_s:.1f} s "
            f"| {'; '.join(sorted(set(finding.faults))[:3]) or 'none'} |"
        )
    lines += ["", "What is more:", ""]
    for finding in findings:
        if finding.notes or finding.others:
            also = f" Answers: {_counted(finding.others)}." if finding.others else ""
            lines.append(f"- *{finding.name[0].upper()}{finding.name[1:]}*: {finding.notes}.{also}")
    grown = (memory[1] - memory[0]) / 2**20
    lines += [
        f"- *Memory*: {memory[0] / 2**20:.0f} MiB after the first seconds, and {memory[1] / 2**20:.0f} MiB at most",
        f"  after a scenario ({grown:+.0f} MiB, of {MOST_MEMORY_BYTES / 2**20:.0f} MiB that it may grow by).",
        f"- *Unforeseen failures in the log*: {len(unforeseen)}.",
        "",
        *(f"    {line}" for line in unforeseen[:5]),
        *([""] if unforeseen else []),
        *_verdict(findings, memory, unforeseen),
        "",
    ]
    return lines


def _is_clean(findings: list[Finding], memory: tuple[int, int], unforeseen: list[str]) -> bool:
    """Whether nothing was found that must not be."""
    return not unforeseen and not any(each.faults for each in findings) and memory[1] - memory[0] <= MOST_MEMORY_BYTES


def _verdict(findings: list[Finding], memory: tuple[int, int], unforeseen: list[str]) -> list[str]:
    """What follows from the results, with the faults of each scenario that has some."""
    not_run = [finding.name for finding in findings if finding.skipped is not None]
    lines = [f"Not run: {', '.join(not_run)}."] if not_run else []
    if _is_clean(findings, memory, unforeseen):
        return [*lines, "All that was run is as it should be."]
    lines.append("Not all is as it should be:")
    lines.append("")
    for finding in (finding for finding in findings if finding.faults):
        told = "; ".join(f"{fault} ({number} times)" for fault, number in Counter(finding.faults).most_common(5))
        lines.append(f"- *{finding.name[0].upper()}{finding.name[1:]}*: {told}.")
    if memory[1] - memory[0] > MOST_MEMORY_BYTES:
        lines.append("- Memory grows beyond its bound.")
    if unforeseen:
        lines.append("- Failures that nobody foresaw are in the log.")
    return lines


def _counted(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {outcome}" for outcome, count in sorted(outcomes.items())) or "-"


if __name__ == "__main__":
    sys.exit(main())
