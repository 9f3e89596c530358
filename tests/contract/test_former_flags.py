"""Every flag that a release had is a flag still, or is taken by a name that it has now, which is said."""

from pathlib import Path

import pytest

from anykey.benchmark.commands import COMMANDS as BENCH
from anykey.index.commands import COMMANDS as INDEX
from anykey.program.settings import Command, ProgramSettings
from anykey.service.settings import ServiceSettings
from anykey.training.interpolate_settings import InterpolateSettings
from anykey.training.settings import TrainSettings
from anykey.training.study.settings import StudySettings
from anykey.training.sweep.settings import SweepSettings

LINES = [line for line in (Path(__file__).parent / "flags_of_0_1.txt").read_text().splitlines() if line[0] != "#"]
OTHERS: dict[str, type[ProgramSettings]] = {
    "anykey-serve": ServiceSettings,
    "anykey-train": TrainSettings,
    "anykey-train interpolate": InterpolateSettings,
    "anykey-train study": StudySettings,
    "anykey-train sweep": SweepSettings,
}


def settings_of(command: str) -> type[ProgramSettings]:
    if command in OTHERS:
        return OTHERS[command]
    program, _, name = command.partition(" ")
    found = {"anykey-index": INDEX, "anykey-bench": BENCH}[program][name]
    assert isinstance(found, Command)
    return found.settings


def flags_of(settings: type[ProgramSettings]) -> set[str]:
    """What is a flag of a command, or was one and is taken for another."""
    flags = {*settings.former_flags, *(f"--{name}" for name in settings.former_names)}
    for name, field in settings.model_fields.items():
        flags.add(f"--{name}")
        if "bool" in str(field.annotation):
            flags.add(f"--no-{name}")
    return {flag.replace("_", "-") for flag in flags}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(":")[0])
def test_flags_of_earlier_releases_are_taken(line: str) -> None:
    command, _, flags = line.partition(": ")
    assert [flag for flag in flags.split() if flag not in flags_of(settings_of(command))] == []


def test_former_flags_name_flags_that_there_are() -> None:
    for command in (line.partition(":")[0] for line in LINES):
        settings = settings_of(command)
        named = {flag.partition("=")[0] for flag in settings.former_flags.values()}
        named |= {f"--{name}".replace("_", "-") for name in settings.former_names.values()}
        assert named <= flags_of(settings)
