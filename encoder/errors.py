"""Everything `encoder` raises on purpose.

EncoderError
  InvalidItemError (ValueError)      the caller's item; says which item and why
    EmptyItemError                   neither text nor image
    ItemTooLargeError                over a limit on bytes, pixels, characters or images
    UndecodableImageError            bytes that are no image we read
    UnsupportedItemError             the encoder cannot embed all of it
      UnsupportedModalityError       the encoder does not take this kind of item
  CheckpointError                    the checkpoint named by the caller
    CheckpointNotFoundError          nothing there
    CheckpointCorruptError           there, but damaged or not what it says it is
    MissingPartError                 needs a library or files of Hugging Face that are not on this machine
    UnsupportedOptionError           its family of models has no such option
  DeviceUnavailableError             the device or precision asked for is not to be had
"""


class EncoderError(Exception):
    """Root of this package's errors."""


class InvalidItemError(EncoderError, ValueError):
    """An item cannot be embedded; its neighbours can.

    Attributes:
        reason: What is wrong with the item, without its position.
        position: The item's place in the batch, from 0; `None` for a single item.
    """

    def __init__(self, reason: str, position: int | None = None) -> None:
        self.reason = reason
        self.position = position
        super().__init__(reason if position is None else f"item {position}: {reason}")

    def at(self, position: int | None) -> "InvalidItemError":
        """The same error with the item's place in the batch."""
        return type(self)(self.reason, position)


class EmptyItemError(InvalidItemError):
    """The item has neither text nor image."""


class ItemTooLargeError(InvalidItemError):
    """The item is over a limit on bytes, pixels, characters or images."""


class UndecodableImageError(InvalidItemError):
    """The bytes are no image that can be read."""


class UnsupportedItemError(InvalidItemError):
    """The encoder cannot embed the item whole; another one might."""


class UnsupportedModalityError(UnsupportedItemError):
    """The encoder does not take this kind of item: text, image or fused."""


class CheckpointError(EncoderError):
    """The checkpoint cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """There is no checkpoint at the place named."""


class CheckpointCorruptError(CheckpointError):
    """A file of the checkpoint is damaged, missing, or belongs to another model."""


class MissingPartError(CheckpointError):
    """The checkpoint needs a tokenizer, a configuration or a library that is not on this machine; says which."""


class UnsupportedOptionError(CheckpointError):
    """The model is of a family that has no such option; says which."""


class DeviceUnavailableError(EncoderError):
    """The device or the precision asked for is not available here."""
