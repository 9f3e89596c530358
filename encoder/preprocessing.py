"""How a picture becomes the pixels that a network takes, as open_clip prepares images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from open_clip.transform import PreprocessCfg
from pydantic import BaseModel, Field, ValidationError

from anykey.encoder.errors import CheckpointCorruptError

_Side = Annotated[int, Field(ge=1, le=10_000)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Preprocessing(BaseModel):
    """What open_clip prepares images by; it would fail at the first image, or not at all, for anything else."""

    size: _Side | Annotated[Sequence[_Side], Field(min_length=2, max_length=2)] = 224
    mode: Literal["RGB"] = "RGB"
    mean: _Number | Annotated[Sequence[_Number], Field(min_length=3, max_length=3)] | None = None
    std: _Deviation | Annotated[Sequence[_Deviation], Field(min_length=3, max_length=3)] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


def preprocess_cfg(name: str, overrides: Mapping[str, Any]) -> PreprocessCfg:
    """open_clip's own preprocessing but for the overrides.

    Args:
        name: Of the network, for messages.
        overrides: Any of `size`, `mean`, `std`, `interpolation`, `resize_mode`, ...

    Raises:
        CheckpointCorruptError: a value is none that open_clip prepares images by; names it.
    """
    defaults = asdict(PreprocessCfg())
    unknown = set(overrides) - set(defaults)
    if unknown:
        raise CheckpointCorruptError(f"unknown preprocessing keys {sorted(unknown)}, known: {sorted(defaults)}")
    try:
        _Preprocessing.model_validate(overrides, strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise CheckpointCorruptError(
            f"{name}: preprocessing key '{detail['loc'][0]}': {detail['msg']}, got {detail['input']!r}"
        ) from error
    return PreprocessCfg(**{**defaults, **overrides})
