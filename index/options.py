"""How versions are derived from a store: what a build was told, and later ones and compaction keep to."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

META_NAME = "options"  # in the store


class FoldOptions(BaseModel):
    """How versions are derived from a store.

    Attributes:
        calibrate: `modality-mean` centres vectors and queries by their modality's mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrate: Literal["none", "modality-mean"] = "none"

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "FoldOptions":
        """Those noted in a store."""
        return cls.model_validate(json.loads(meta.get(META_NAME, "{}")))

    def changed_by(self, settings: BaseModel) -> "FoldOptions":
        """These options, but for those that settings of the same names give."""
        given = {name: getattr(settings, name) for name in FoldOptions.model_fields}
        return self.model_copy(update={name: value for name, value in given.items() if value is not None})

    def facts(self) -> dict[str, str]:
        """For a store to note."""
        return {META_NAME: self.model_dump_json()}
