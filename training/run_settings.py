"""Settings of a run that another command starts."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from anykey.training.errors import InvalidRecipeError
from anykey.training.settings import TrainSettings


class GivenSettings(TrainSettings):
    """`TrainSettings` from what is given alone: a variable in the environment must not change one run of a study."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only."""
        return (init_settings,)


def run_settings(name: str, values: Mapping[str, Any]) -> TrainSettings:
    """Checked settings of the run `name`.

    Raises:
        InvalidRecipeError: a setting is unknown, out of bounds or contradicts another; says which run and which.
    """
    try:
        given = GivenSettings.by_current_names(values)
        return GivenSettings(**{"overwrite": True, **given})  # the command knows which runs are its own
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}".removeprefix(": ")
            for detail in error.errors(include_url=False)
        ]
        raise InvalidRecipeError(f"settings of {name}: {'; '.join(faults)}") from error


def toml_text(settings: TrainSettings, leave_out: AbstractSet[str] = frozenset()) -> str:
    """The settings that were given, as a TOML file for `anykey-train --config`; a line each, sorted by name."""
    values = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=set(leave_out))
    # JSON's strings, numbers, booleans and arrays of them are TOML as they stand.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in sorted(values.items())]
    return "\n".join(lines) + "\n"
