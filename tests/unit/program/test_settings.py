"""Settings from every source in the promised order, complete help, and one line for every error."""

import importlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from anykey.program.extras import require_library
from anykey.program.settings import (
    EXIT_ENVIRONMENT,
    EXIT_USAGE,
    Command,
    ProgramSettings,
    UsageError,
    load_settings,
    plain_console,
    run_program,
)

PACKAGES = ("training", "index", "service", "benchmark")


class FleetSettings(ProgramSettings):
    """Counts the ships of a fleet."""

    model_config = SettingsConfigDict(env_prefix="FLEET_")
    former_names: ClassVar[Mapping[str, str]] = {"how_many": "num_ships"}
    former_flags: ClassVar[Mapping[str, str]] = {"--flagged": "--flag=white", "--harbour": "--home"}

    num_ships: int = Field(3, ge=1, le=100, description="ships in the fleet")
    names: list[str] = Field([], description="what they are called")
    sizes_m: tuple[float, ...] | None = Field(None, description="their lengths")
    is_sailing: bool = Field(False, description="whether they are at sea")
    home: str = Field("", description="the harbour they belong to")
    flag: str = Field("", description="what they fly")

    @field_validator("home")
    @classmethod
    def check_home(cls, value: str) -> str:
        if "sea" in value:
            raise ValueError(f"expected a harbour, got {value!r}")
        return value

    @field_validator("flag")
    @classmethod
    def check_flag(cls, value: str) -> str:
        if value == "black":
            raise ValueError("pirates are not welcome")
        return value

    @model_validator(mode="after")
    def check(self) -> "FleetSettings":
        if len(self.names) > self.num_ships:
            raise ValueError("more names than ships")
        return self


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("FLEET_", "ANYKEY_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text('num_ships = 20\nnames = ["from", "toml"]\n')
    return path


def load(*argv: str) -> FleetSettings:
    return load_settings(FleetSettings, "fleet", list(argv))


def test_a_flag_beats_the_environment_beats_toml_beats_the_default(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().num_ships == 3
    assert load("--config", str(toml)).num_ships == 20
    monkeypatch.setenv("FLEET_NUM_SHIPS", "40")
    assert load("--config", str(toml)).num_ships == 40
    assert load("--config", str(toml)).names == ["from", "toml"]
    assert load("--config", str(toml), "--num-ships", "60").num_ships == 60
    assert load(f"--config={toml}", "--num-ships=61").num_ships == 61


def test_the_environment_may_name_the_toml_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_CONFIG", str(toml))
    assert load().num_ships == 20


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--names", "a,b"], ["a", "b"]),
        (["--names", "a", "--names", "b"], ["a", "b"]),
        (["--names", "a-{0,1}.tar,b"], ["a-{0,1}.tar", "b"]),
        (["--names", "a[1].tar"], ["a[1].tar"]),
        (["--names", " a , ,b"], ["a", "b"]),
        (["--names", ""], []),
    ],
)
def test_lists_are_read_from_commas_and_repeated_flags(argv: list[str], names: list[str]) -> None:
    assert load(*argv).names == names


def test_lists_in_the_environment_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_NAMES", "a-{0,1}.tar,b")
    monkeypatch.setenv("FLEET_SIZES_M", "1.5,2")
    assert load().names == ["a-{0,1}.tar", "b"]
    assert load().sizes_m == (1.5, 2.0)


@pytest.mark.parametrize("value", ["", "tcp://10.96.0.12:8000", "udp://[fd00::1]:53"])
def test_a_variable_set_to_nothing_or_by_kubernetes_for_a_service_is_as_if_unset(
    value: str, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HarbourSettings(FleetSettings):
        port: int = Field(8000, description="where it listens")

    monkeypatch.setenv("FLEET_PORT", value)
    for name in () if value else ("NUM_SHIPS", "NAMES", "SIZES_M", "IS_SAILING", "HOME", "CONFIG"):
        monkeypatch.setenv(f"FLEET_{name}", "")
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT_8000_TCP", "PORT_8000_TCP_PORT"):
        monkeypatch.setenv(f"FLEET_{name}", value or "10.96.0.12")
    assert load_settings(HarbourSettings, "fleet", []).model_dump() == HarbourSettings.model_construct().model_dump()
    assert load_settings(HarbourSettings, "fleet", ["--config", str(toml)]).num_ships == 20


def test_an_address_is_no_variable_of_kubernetes_where_it_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HOME", "tcp://10.96.0.12:8000")
    assert load().home == "tcp://10.96.0.12:8000"


def test_switches_have_both_signs() -> None:
    assert load("--is-sailing").is_sailing
    assert not load("--no-is-sailing").is_sailing


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-ships", "0"], "setting 'num_ships': Input should be greater than or equal to 1 .got '0'."),
        (["--num-ships", "101"], "less than or equal to 100"),
        (["--num-ships", "many"], "setting 'num_ships': .*valid integer.* .got 'many'."),
        (["--num-ships", "1", "--names", "a,b"], "^more names than ships$"),
        (["--home", "sea"], "^setting 'home': expected a harbour, got 'sea'$"),
        (["--home", "ftp://me:pw@sea"], r"^setting 'home': expected a harbour, got 'ftp://\*\*\*@sea'$"),
        (["--flag", "black"], r"^setting 'flag': pirates are not welcome \(got 'black'\)$"),
        (["--config", "/nowhere.toml"], "^settings file /nowhere.toml does not exist$"),
        (["--config", "/"], "does not exist"),
    ],
)
def test_a_wrong_value_is_named_with_what_came(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(*argv)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"num_ship = 4\nspeed = 3", "setting 'num_ship': unknown setting; setting 'speed': unknown setting"),
        (b"num_ships = 0", "setting 'num_ships'"),
        (b"num_ships = ", r"cannot read the settings of .*fleet\.toml"),
        (b"\xff\xfe", r"cannot read the settings of .*fleet\.toml"),
    ],
)
def test_a_wrong_toml_file_is_refused_by_what_is_wrong(toml: Path, content: bytes, message: str) -> None:
    toml.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load("--config", str(toml))


@pytest.mark.parametrize(
    "argv", [["--speed", "3"], ["--num-ship", "3"], ["--num_ships", "3"], ["--conf", "x"], ["extra"]]
)
def test_an_unknown_flag_is_one_line_and_abbreviations_are_unknown(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(None, argv) == EXIT_USAGE
    assert capsys.readouterr().err == f"fleet: error: unrecognized arguments: {' '.join(argv)}\n"


def test_a_flag_without_its_value_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, ["--num-ships"]) == EXIT_USAGE
    assert capsys.readouterr().err == "fleet: error: argument --num-ships: expected one argument\n"


@pytest.mark.parametrize("number", ["-4", "-.5", "-4GiB"])
def test_a_number_below_zero_is_a_value_and_no_flag(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, ["--num-ships", number]) == EXIT_USAGE
    assert f"(got '{number}')" in capsys.readouterr().err
    assert load("--home", "-7th street").home == "-7th street"


def run(behaviour: type[BaseException] | None, argv: list[str]) -> int:
    """A program of two commands, `count` the default; `count` ends in the way given."""

    def count(settings: FleetSettings) -> int:
        if behaviour is not None:
            raise behaviour("first line\nsecond line")
        return settings.num_ships

    commands = {"count": Command(FleetSettings, count), "sail": Command(FleetSettings, lambda settings: 40)}
    return run_program("fleet", commands, argv, (KeyError, LookupError), (OSError,), default="count")


def test_the_command_named_runs_and_its_code_is_given_back() -> None:
    assert run(None, []) == 3
    assert run(None, ["count", "--num-ships", "5"]) == 5
    assert run(None, ["--num-ships", "5"]) == 5
    assert run(None, ["sail"]) == 40


@pytest.mark.parametrize(
    ("error", "code"),
    [(LookupError, EXIT_USAGE), (OSError, EXIT_ENVIRONMENT), (FileNotFoundError, EXIT_ENVIRONMENT)],
)
def test_an_error_becomes_one_line_and_a_code(
    error: type[Exception], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(error, []) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "fleet: error: first line second line\n")


def test_a_former_name_works_where_its_setting_does_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("how_many = 20\n")
    assert load("--config", str(path)).num_ships == 20
    assert capsys.readouterr().err == "warning: how_many has been renamed: write num_ships\n"
    monkeypatch.setenv("FLEET_HOW_MANY", "40")
    assert load("--config", str(path)).num_ships == 40
    assert "warning: FLEET_HOW_MANY has been renamed: write FLEET_NUM_SHIPS\n" in capsys.readouterr().err
    for flag in (["--how-many", "60"], ["--how-many=60"]):
        assert load("--config", str(path), *flag).num_ships == 60
        assert "warning: --how-many has been renamed: write --num-ships\n" in capsys.readouterr().err
    monkeypatch.setenv("FLEET_NUM_SHIPS", "50")
    assert load().num_ships == 50


@pytest.mark.parametrize(
    ("argv", "flag", "warned"),
    [
        (["--flagged"], "white", "--flagged has been renamed: write --flag=white"),
        (["--flagged", "--num-ships", "7"], "white", "--flagged has been renamed: write --flag=white"),
        (["--harbour", "here"], "", "--harbour has been renamed: write --home"),
        (["--harbour=here"], "", "--harbour has been renamed: write --home"),
    ],
)
def test_flags_that_are_written_otherwise_work_and_say_so(
    argv: list[str], flag: str, warned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(*argv)
    assert (settings.flag, settings.home) == (flag, "" if flag else "here")
    assert capsys.readouterr().err == f"warning: {warned}\n"


def test_a_value_behind_what_was_a_switch_is_refused() -> None:
    with pytest.raises(UsageError, match="--flagged"):
        load("--flagged", "black")


def test_an_error_of_the_system_begins_with_the_file_and_has_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(FleetSettings, lambda settings: len((tmp_path / "none").read_bytes()))
    assert run_program("fleet", {"count": command}, ["count"], (), (OSError,)) == EXIT_ENVIRONMENT
    assert capsys.readouterr().err == f"fleet count: error: {tmp_path / 'none'}: No such file or directory\n"


def test_a_library_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = Command(FleetSettings, lambda settings: require_library("sonar_of_fleets", "sonar", "counting") or 0)
    assert run_program("fleet", {"count": command}, ["count"], (), ()) == EXIT_ENVIRONMENT
    said = "counting needs the library sonar_of_fleets: pip install 'anykey[sonar]'"
    assert capsys.readouterr().err == f"fleet count: error: {said}\n"


def test_wrong_settings_become_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, ["--num-ships", "0"]) == EXIT_USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError, [])


def test_square_brackets_in_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, ["--num-ships", "[bold]"]) == EXIT_USAGE
    assert "[bold]" in capsys.readouterr().err


def test_a_console_prints_text_as_it_is_and_uncut(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"y[/z] [bold] :bug: {'a path/' * 40}"
    plain_console().print(line)
    plain_console(stderr=True).print(line)
    assert capsys.readouterr() == (f"{line}\n", f"{line}\n")


def test_the_default_commands_help_names_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    said = "Counts the ships of a fleet.\n\nOther commands: sail. fleet COMMAND --help shows their settings."
    for argv, is_default in ((["--help"], True), (["count", "--help"], True), (["sail", "--help"], False)):
        with pytest.raises(SystemExit):
            run(None, argv)
        assert (said in capsys.readouterr().out) == is_default


@pytest.mark.parametrize("argv", [["--version"], ["sail", "--version"]])
def test_the_version_is_said_before_anything_is_read(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ZeroDivisionError, argv) == 0
    assert capsys.readouterr() == (f"fleet {version('anykey')}\n", "")


def without_default(argv: list[str]) -> int:
    return run_program("fleet", {"count": Command(FleetSettings, lambda settings: 0)}, argv, (), ())


def test_commands_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert without_default(["--help"]) == 0
    assert "count         Counts the ships of a fleet." in capsys.readouterr().out


def test_an_unknown_or_missing_command_is_an_error_that_lists_those_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert without_default(["swim"]) == EXIT_USAGE
    assert "unknown command 'swim', expected one of: count" in capsys.readouterr().err
    assert without_default([]) == EXIT_USAGE


def settings_classes() -> list[type[ProgramSettings]]:
    """Every settings class of every program, found in the packages' settings modules."""
    found = []
    for package in PACKAGES:
        module = importlib.import_module(f"anykey.{package}.settings")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, ProgramSettings)
        ]
    return found


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_help_lists_every_setting_with_its_description(
    settings: type[ProgramSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(settings, "prog", ["--help"])
    assert caught.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    for name, field in settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text or f" {name.upper()} " in help_text, name
        assert field.description, name
        assert " ".join(field.description.split())[:30] in help_text, name


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_program_reads_its_own_environment_and_explains_itself(settings: type[ProgramSettings]) -> None:
    assert settings.model_config["env_prefix"].startswith("ANYKEY_")
    assert (settings.__doc__ or "").strip()


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_setting_of_every_program_may_be_set_to_nothing(
    settings: type[ProgramSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    required = {name: "x" for name, field in settings.model_fields.items() if field.is_required()}
    flags = [text for name in required for text in (f"--{name.replace('_', '-')}", "x")]
    unset = outcome(settings, flags)
    for name in settings.model_fields.keys() - required:
        monkeypatch.setenv(f"{settings.model_config['env_prefix']}{name.upper()}", "")
    assert outcome(settings, flags) == unset


def outcome(settings: type[ProgramSettings], flags: list[str]) -> str:
    """The settings, or what is wrong with them."""
    try:
        return repr(load_settings(settings, "prog", flags))
    except UsageError as error:
        return str(error)


def test_all_programs_have_settings() -> None:
    packages = {settings.__module__.split(".")[1] for settings in settings_classes()}
    assert packages == set(PACKAGES)
