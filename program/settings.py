"""What every AnyKey command shares: settings from flags, environment and TOML, and how it ends on an error."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from rich.console import Console

from anykey.program.extras import MissingLibraryError
from anykey.program.machine import release

EXIT_ENVIRONMENT = 1  # files, devices, ports, other programs
EXIT_USAGE = 2  # what the caller asked for; argparse exits with the same code

# Kubernetes tells every container of the Services around it: one named `anykey` makes ANYKEY_PORT such an address.
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_SAYS_VERSION = "--version says which release this is."
_OF_FLAGS = "error parsing CLI: "  # what pydantic-settings puts before argparse's words

SettingsT = TypeVar("SettingsT", bound="ProgramSettings")


class UsageError(ValueError):
    """A setting is unknown, missing or out of bounds; the message names it and its source."""


class ProgramSettings(BaseSettings):
    """One program's settings; a flag beats the environment, which beats the TOML file, which beats the default.

    Attributes:
        former_names: Names that settings once had, and what they are called now. They work, and it is said.
        former_flags: Flags that are written otherwise now, though their names elsewhere may stay; one that was a switch
            is written with its value now. They work, and it is said.
    """

    former_names: ClassVar[Mapping[str, str]] = {}
    former_flags: ClassVar[Mapping[str, str]] = {}

    model_config = SettingsConfigDict(
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        protected_namespaces=(),
        enable_decoding=False,
    )

    config: Path | None = Field(None, description="TOML file with any of these settings")

    @field_validator("*", mode="before")
    @classmethod
    def split_lists(cls, value: Any, info: ValidationInfo) -> Any:
        """Reads a list from `a,b`, as flags and environment variables spell it; commas inside braces do not split."""
        annotation = str(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, str) and annotation.startswith(("list", "tuple")):
            return [part.strip() for part in re.split(r",(?![^{]*})", value) if part.strip()]
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Orders the sources; the command line, when there is one, is put in front by `load_settings`."""
        assert isinstance(env_settings, EnvSettingsSource)
        given = {name: v for name, v in env_settings.env_vars.items() if _is_a_setting(name, v)}
        prefix = cls.model_config.get("env_prefix", "")
        names = {f"{prefix}{old}".lower(): f"{prefix}{new}".lower() for old, new in cls.former_names.items()}
        env_settings.env_vars = _renamed(given, names, str.upper)
        toml = TomlConfigSettingsSource(settings_cls)
        toml.init_kwargs = cls.by_current_names(toml.init_kwargs)
        return init_settings, env_settings, toml

    @classmethod
    def by_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the names that their settings have now."""
        return _renamed(values, cls.former_names, str)


@dataclass(frozen=True)
class Command:
    """One subcommand: the settings it reads and what it does with them.

    Attributes:
        settings: The settings class; its docstring is the command's `--help` text.
        run: Does the work and returns the exit code; raises one of the program's error types.
    """

    settings: type[ProgramSettings]
    run: Callable[[Any], int]


@dataclass(frozen=True)
class CommandGroup:
    """Subcommands that belong together, below one name.

    Attributes:
        summary: What they do, in one line.
        commands: By name.
    """

    summary: str
    commands: Mapping[str, Command]


def load_settings(settings: type[SettingsT], prog: str, argv: list[str], epilog: str = "") -> SettingsT:
    """Reads one program's settings from flags, environment and TOML file.

    Args:
        settings: The settings class; `env_prefix` in its `model_config` names its environment variables.
        prog: Program name for `--help` and messages.
        argv: Command-line arguments without the program name.
        epilog: What `--help` says after the description of the program.

    Returns:
        The validated settings.

    Raises:
        UsageError: a value is out of bounds, a flag or a TOML key is unknown, or the TOML file cannot be read.
        SystemExit: `--help` was asked for (0), as argparse does it.
    """
    path = _config_path(settings, argv)
    if path is not None and not path.is_file():
        raise UsageError(f"settings file {path} does not exist")
    model_config = SettingsConfigDict(cli_prog_name=prog, toml_file=path)
    namespace = {
        "model_config": model_config,
        "__module__": settings.__module__,
        "__doc__": f"{inspect.cleandoc(settings.__doc__ or '')}\n\n{epilog}".strip(),
    }
    program = type(settings.__name__, (settings,), namespace)
    try:
        return CliApp.run(program, cli_args=_join_negatives(_by_current_flags(settings, argv)))
    except ValidationError as error:
        raise UsageError("; ".join(_sentences(error))) from error
    except (SettingsError, ValueError) as error:
        if str(error).startswith(_OF_FLAGS):  # argparse's own words: a flag that is unknown or lacks its value
            raise UsageError(str(error).removeprefix(_OF_FLAGS)) from error
        # a broken TOML file, or a value that is not JSON
        raise UsageError(f"cannot read the settings{f' of {path}' if path else ''}: {error}") from error


def run_program(
    prog: str,
    commands: Mapping[str, Command | CommandGroup],
    argv: list[str] | None,
    usage_errors: tuple[type[Exception], ...],
    environment_errors: tuple[type[Exception], ...],
    default: str | None = None,
) -> int:
    """Runs the subcommand that `argv` names and turns its errors into one line and an exit code.

    Args:
        prog: Program name, as a person types it.
        commands: Subcommands, and groups of them, by name.
        argv: Arguments without the program name; `sys.argv[1:]` when absent.
        usage_errors: The caller's fault: exit code 2.
        environment_errors: Files, devices, ports: exit code 1.
        default: Subcommand meant when the first argument is not a subcommand.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if "--version" in arguments[:2] and {*arguments[:2]} <= {"--version", *commands}:
        plain_console().print(f"{prog} {release()}")
        return 0
    name = arguments[0] if arguments and arguments[0] in commands else default
    if name is None:
        return _show_commands(prog, commands, arguments)
    rest = arguments[1:] if arguments and arguments[0] == name else arguments
    full_name = prog if name == default else f"{prog} {name}"
    command = commands[name]
    if isinstance(command, CommandGroup):
        return run_program(full_name, command.commands, rest, usage_errors, environment_errors)
    epilog = f"{_other_commands(prog, commands, name)} {_SAYS_VERSION}".strip() if name == default else ""
    usage: tuple[type[Exception], ...] = (UsageError, *usage_errors)
    environment: tuple[type[Exception], ...] = (MissingLibraryError, *environment_errors)
    try:
        return command.run(load_settings(command.settings, full_name, rest, epilog))
    except usage as error:
        return fail(full_name, str(error), EXIT_USAGE)
    except environment as error:
        return fail(full_name, _said_of(error), EXIT_ENVIRONMENT)


def plain_console(stderr: bool = False) -> Console:
    """A console that prints text as it is: a path may hold `[/b]` or `:bug:`, and lines are not cut."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def fail(prog: str, message: str, code: int) -> int:
    """Writes `prog: error: message` to stderr as one line and gives `code` back."""
    line = " ".join(message.split())
    plain_console(stderr=True).print(f"{prog}: error: {line}")
    return code


def _said_of(error: Exception) -> str:
    """What an error says; what the system says of a file begins with the file, and has no number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _by_current_flags(settings: type[ProgramSettings], argv: list[str]) -> list[str]:
    """The arguments with the flags that settings have now."""
    flags = {_flag(old): _flag(new) for old, new in settings.former_names.items()}
    current = []
    for argument, behind in zip_longest(argv, argv[1:], fillvalue="--"):
        flag, equals, value = argument.partition("=")
        was_switch = "=" in settings.former_flags.get(flag, "")
        is_former = not was_switch or (not equals and behind.startswith("--"))
        (name,) = _renamed({flag: value}, {**flags, **settings.former_flags} if is_former else flags, str)
        current.append(f"{name}{equals}{value}")
    return current


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _renamed(values: Mapping[str, Any], names: Mapping[str, str], shown: Callable[[str], str]) -> dict[str, Any]:
    """The values by their current names; says which came by a former one, and lets those of the current count."""
    current = dict(values)
    for old, new in names.items():
        if old in current:
            current = {new: current.pop(old), **current}
            plain_console(stderr=True).print(f"warning: {shown(old)} has been renamed: write {shown(new)}")
    return current


def _join_negatives(argv: list[str]) -> list[str]:
    """Writes `--flag -4GiB` as `--flag=-4GiB`: argparse would take the value for a flag; no flag of ours is a number.

    >>> _join_negatives(["--memory", "-4GiB", "--k", "3"])
    ['--memory=-4GiB', '--k', '3']
    """
    joined: list[str] = []
    for argument in argv:
        if joined and re.fullmatch(r"--[^=]+", joined[-1]) and re.match(r"-\.?[0-9]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _config_path(settings: type[ProgramSettings], argv: list[str]) -> Path | None:
    """The TOML file named by `--config FILE`, `--config=FILE` or the environment."""
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            return Path(argv[position + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    value = os.environ.get(f"{settings.model_config.get('env_prefix', '')}CONFIG")
    return Path(value) if value else None


def _is_a_setting(name: str, value: str | None) -> bool:
    """Whether somebody set this variable for us: not to nothing, and not Kubernetes for a Service of our name."""
    return bool(value) and not (name.lower().endswith("_port") and SERVICE_ADDRESS.fullmatch(value or ""))


def _sentences(error: ValidationError) -> list[str]:
    """One sentence per wrong setting: which, what is wrong, what came."""
    sentences = []
    for detail in error.errors(include_url=False):
        name = ".".join(str(part) for part in detail["loc"])
        message = _reason(detail)
        sentences.append(f"setting '{name}': {message}" if name else message)
    return sentences


def _reason(detail: ErrorDetails) -> str:
    """What is wrong with one setting, and what came, unless the setting's own check says so itself."""
    if detail["type"] == "extra_forbidden":
        return "unknown setting"
    reason = detail["msg"].removeprefix("Value error, ")
    is_own = detail["type"] == "value_error"
    if detail["type"] == "missing" or not detail["loc"] or (is_own and re.search(r"\bgot\b", reason)):
        return _without_credentials(reason)
    return f"{reason} (got {_without_credentials(repr(detail['input']))})"


def _without_credentials(shown: str) -> str:
    """The text with what stands before the @ of an address hidden."""
    return re.sub(r"://[^/\s]*@", "://***@", shown)


def _other_commands(prog: str, commands: Mapping[str, Command | CommandGroup], default: str) -> str:
    """What the help of the default command says of those it would hide."""
    others = ", ".join(name for name in commands if name != default)
    return f"Other commands: {others}. {prog} COMMAND --help shows their settings." if others else ""


def _show_commands(prog: str, commands: Mapping[str, Command | CommandGroup], arguments: list[str]) -> int:
    """Lists the subcommands; an error unless help was asked for."""
    if arguments and arguments[0] not in ("-h", "--help"):
        return fail(
            prog,
            f"unknown command '{arguments[0]}', expected one of: {', '.join(commands)}",
            EXIT_USAGE,
        )
    console = plain_console()
    console.print(f"usage: {prog} COMMAND [options]\n")
    for name, command in commands.items():
        if isinstance(command, CommandGroup):
            summary = command.summary
        else:
            summary = (command.settings.__doc__ or "").strip().splitlines()[0]
        console.print(f"  {name:<14}{summary}")
    console.print(f"\n{prog} COMMAND --help shows a command's settings. {_SAYS_VERSION}")
    return 0 if arguments else EXIT_USAGE
