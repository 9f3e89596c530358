"""Where vectors come from: an encoder that is loaded only when something needs embedding, or what takes its place.

Shape legend: B = batch, D = width.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.description import described_fingerprint, description_of
from anykey.encoder.item import Item
from anykey.encoder.protocol import ItemEncoder, Prepared, Role, check_item
from anykey.index.errors import EncoderMismatchError
from anykey.index.settings import EncodingSettings
from anykey.index.store.manifest import EncoderFacts


class EncoderSource(Protocol):
    """An encoder that may not be loaded yet, or what stands in its place.

    Attributes:
        step: What progress calls taking vectors from it.
    """

    step: str = "embedding"

    def fingerprint(self) -> str:
        """The encoder's fingerprint, without loading it where that is possible."""

    def width(self) -> int:
        """The encoder's width, without loading it where that is possible."""

    def load(self) -> ItemEncoder:
        """The encoder, loaded on the first call; safe in any thread."""

    def facts(self) -> EncoderFacts:
        """What is noted of who made the vectors."""
        return EncoderFacts.of(self.load())

    def prepare(self, item: Item, row: int | None = None) -> Prepared:
        """Makes a key ready for its batch, in any thread.

        Args:
            item: What the key holds.
            row: The corpus's row that it is in, from 1, where it comes from one.

        Raises:
            InvalidItemError: the encoder cannot embed it, or not all of it.
        """
        encoder = self.load()
        check_item(encoder, item)
        return encoder.prepare(item, Role.KEY)

    def encode(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors `[B, D]` of what `prepare` gave; called from one thread at a time."""
        return self.load().encode_prepared(prepared)

    def require_device(self) -> None:
        """Raises `DeviceUnavailableError` unless there is the device that the settings name."""
        return

    def stamp(self) -> list[str | int]:
        """What tells its vectors from others with the same fingerprint; nothing if that does."""
        return []

    def require_rows(self, num_rows: int | None) -> None:
        """Raises `SourceError` unless it has vectors for as many rows as the corpus has, if that is known."""
        return


class CheckpointSource(EncoderSource):
    """The encoder that the settings name."""

    def __init__(self, settings: EncodingSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._encoder: ItemEncoder | None = None

    def fingerprint(self) -> str:
        """What the checkpoint directory says of itself, or else what its weights give."""
        return self._described_fingerprint() or self.load().fingerprint

    def width(self) -> int:
        """What the checkpoint directory says of itself, or else what its weights give."""
        value = None if self._settings.width is not None else description_of(self._settings.checkpoint).get("width")
        return value if isinstance(value, int) and value > 0 else self.load().width

    def load(self) -> ItemEncoder:
        """Loads the encoder once.

        Raises:
            EncoderError: there is no such checkpoint, it is damaged, or the device is not to be had.
            EncoderMismatchError: the weights are not those that the checkpoint's `encoder.json` names.
        """
        with self._lock:
            if self._encoder is None:
                self._encoder = self._load()
            return self._encoder

    def require_device(self) -> None:
        """Looks for a device that was named; what `auto` gives and the CPU are there, and need no torch to know."""
        if self._settings.device not in ("auto", "cpu"):
            from anykey.encoder.model import choose_device

            choose_device(self._settings.device)

    def _load(self) -> ItemEncoder:
        from anykey.encoder.images import ImageLimits
        from anykey.encoder.model import Encoder

        settings = self._settings
        encoder = Encoder.configured(settings, ImageLimits.of(settings))
        written = self._described_fingerprint()
        if written is not None and written != encoder.fingerprint:
            raise EncoderMismatchError(f"checkpoint {settings.checkpoint} changed while it was read; run again")
        return encoder

    def _described_fingerprint(self) -> str | None:
        return described_fingerprint(self._settings.checkpoint, self._settings.fusion, self._settings.width)
