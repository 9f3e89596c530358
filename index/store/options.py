"""How versions are derived from a store: what a build was told, and what later ones and compaction keep to."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from anykey.index.errors import InvalidStructureError
from anykey.index.vectors.targets import DEFAULT_RECALL, Targets

if TYPE_CHECKING:
    from anykey.index.settings import FoldSettings

META_NAME = "options"  # in the store
AUTO = "auto"
VERSIONS_KEPT = 2  # of an index that was not told
logger = logging.getLogger(__name__)


class FoldOptions(BaseModel):
    """How versions are derived from a store.

    Attributes:
        calibrate: `modality-mean` centres vectors and queries by their modality's mean.
        structure: FAISS factory string of the search structure, `exact`, or `auto` to choose by measurement.
        targets: What the structure, or its search parameters, are chosen to keep to.
        keep_versions: How many versions are kept, the published one among them, to go back to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrate: Literal["none", "modality-mean"] = "none"
    structure: str = AUTO
    targets: Targets = Targets()
    keep_versions: int = VERSIONS_KEPT

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what was not told, so that earlier releases, which do not know of it, read the manifest."""
        dumped: dict[str, Any] = handler(self)
        if self.keep_versions == VERSIONS_KEPT:
            dumped.pop("keep_versions", None)
        return dumped

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "FoldOptions":
        """Those noted in a store; in place of a structure that earlier releases built, one is chosen by measurement."""
        from anykey.index.vectors.structure_kinds import require_kind  # which reading an index does not need

        noted = cls.model_validate(json.loads(meta.get(META_NAME, "{}")))
        if noted.structure == AUTO:
            return noted
        try:
            require_kind(noted.structure)
        except InvalidStructureError as error:
            logger.warning("a search structure is chosen by measurement instead of the one that was named: %s", error)
            return noted.model_copy(update={"structure": AUTO})
        return noted

    def changed_by(self, settings: "FoldSettings") -> "FoldOptions":
        """These options, but for what is given; what is said of the structure replaces all that was said of it."""
        told = {"calibrate": settings.calibrate, "keep_versions": settings.keep_versions}
        changed = self.model_copy(update={name: value for name, value in told.items() if value is not None})
        memory, recall, latency = settings.memory, settings.recall, settings.latency
        if (settings.structure, memory, recall, latency) == (None, None, None, None):
            return changed
        targets = Targets(memory_bytes=memory, recall=recall or DEFAULT_RECALL, latency_ms=latency)
        return changed.model_copy(update={"structure": settings.structure or AUTO, "targets": targets})

    def derives_as(self, other: "FoldOptions") -> bool:
        """Whether the files of a version would be the same with other options."""
        return self.model_copy(update={"keep_versions": other.keep_versions}) == other

    def facts(self) -> dict[str, str]:
        """For a store to note."""
        return {META_NAME: self.model_dump_json()}
