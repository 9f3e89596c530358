"""Writes docs/settings.md from the settings classes: `python -m tests.contract.settings_page` after a change."""

import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from anykey.benchmark.commands import COMMANDS as BENCH_COMMANDS
from anykey.encoder.commands import COMMANDS as ENCODER_COMMANDS
from anykey.index.commands import COMMANDS as INDEX_COMMANDS
from anykey.program.settings import ProgramSettings
from anykey.service.access.commands import COMMANDS as KEYS_COMMANDS
from anykey.service.settings import ServiceSettings
from anykey.training.interpolate_settings import InterpolateSettings
from anykey.training.settings import TrainSettings
from anykey.training.study.settings import StudySettings
from anykey.training.sweep.settings import SweepSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
PROGRAMS: dict[str, type[ProgramSettings]] = {
    "anykey-train": TrainSettings,
    "anykey-train interpolate": InterpolateSettings,
    "anykey-train study": StudySettings,
    "anykey-train sweep": SweepSettings,
    **{f"anykey-index {name}": command.settings for name, command in INDEX_COMMANDS.items()},
    "anykey-serve": ServiceSettings,
    **{f"anykey-serve keys {name}": command.settings for name, command in KEYS_COMMANDS.commands.items()},
    **{f"anykey-encoder {name}": command.settings for name, command in ENCODER_COMMANDS.items()},
    **{f"anykey-bench {name}": command.settings for name, command in BENCH_COMMANDS.items()},
}
INTRODUCTION = """# Settings

Give a setting in one of three ways. A flag beats the environment, and the environment beats the file.

1. A flag: `--batch-size 512`. Switches are `--lock-image` and `--no-lock-image`; lists are `a,b`, or the flag repeated.
2. An environment variable: the prefix below and the name in capitals, `ANYKEY_TRAIN_BATCH_SIZE=512`.
3. A TOML file named by `--config FILE` or by the variable `<prefix>CONFIG`: `batch_size = 512`.

Units are in the names. A value out of bounds, an unknown flag and an unknown TOML key are refused by name.
`--help` lists a command's settings, and `--version` says which release a command is.

A variable that is set to nothing counts as unset. So does one whose name ends with `_PORT` and whose value is an
address such as `tcp://10.96.0.12:8000`: Kubernetes sets `ANYKEY_PORT` so in containers beside a Service named `anykey`.

`python -m tests.contract.settings_page` writes this page from the settings classes; a test fails when it is stale.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_section(name, settings) for name, settings in PROGRAMS.items())


def _section(name: str, settings: type[ProgramSettings]) -> str:
    summary = (settings.__doc__ or "").strip().splitlines()[0]
    prefix = settings.model_config.get("env_prefix", "")
    rows = "".join(_row(field_name, field) for field_name, field in settings.model_fields.items())
    head = "| setting | type | default | meaning |\n|---|---|---|---|\n"
    return f"\n## {name}\n\n{summary} Environment prefix `{prefix}`.\n\n{head}{rows}"


def _row(name: str, field: FieldInfo) -> str:
    kind = " or ".join(_kinds(field.annotation)).replace("|", "\\|")
    bounds = ", ".join(_bounds(field))
    description = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {kind}{f', {bounds}' if bounds else ''} | {_default(field)} | {description} |\n"


def _kinds(annotation: object) -> Iterator[str]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            if argument is not type(None):
                yield from _kinds(argument)
    elif origin is typing.Annotated:
        yield from _kinds(arguments[0])
    elif origin is typing.Literal:
        yield ", ".join(f"`{value}`" for value in arguments)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield ", ".join(f"`{member.value}`" for member in annotation)
    elif annotation is SecretStr:
        yield "str"
    elif origin in (list, tuple, frozenset, set):
        yield f"list of {next(_kinds(arguments[0]))}"
    else:
        yield getattr(annotation, "__name__", str(annotation)).lower()


def _bounds(field: FieldInfo) -> Iterator[str]:
    for bound in field.metadata:
        for kind, sign, attribute in ((Ge, ">=", "ge"), (Gt, ">", "gt"), (Le, "<=", "le"), (Lt, "<", "lt")):
            if isinstance(bound, kind):
                yield f"{sign} {getattr(bound, attribute):,}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == [] or value == ():
        return "none"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (list, tuple)):
        value = ",".join(str(part) for part in value)
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
