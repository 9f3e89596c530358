"""Every knob of `anykey-train`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from encoder.architecture import Padding
from encoder.fusion import Fusion
from encoder.program import ProgramSettings
from training.losses import Reading


class TrainSettings(ProgramSettings):
    """Trains an encoder on image-caption pairs with Generalized Contrastive Learning.

    Writes a run folder: best/ and last/ (checkpoint directories), metrics.jsonl, TensorBoard events,
    settings.json and bad_rows.jsonl. A run that is already there, finished, with the same settings and
    data is left as it is.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_TRAIN_")

    data: list[str] = Field(
        [], description="training pairs: .tar shards and .jsonl manifests; {a,b} {0..9} * ? [] are patterns"
    )
    val_data: list[str] = Field([], description="held-out pairs, measured during training and never trained on")
    output: Path = Field(Path("runs/default"), description="run folder")

    start: str | None = Field(
        None, description="encoder to fine-tune: checkpoint directory, ARCHITECTURE@FILE or ARCHITECTURE/TAG"
    )
    architecture: str = Field(
        "anykey-tiny", description="without --start: open_clip name or .json configuration, trained from random weights"
    )
    image_weights: Path | None = Field(None, description="pretrained weights of the timm image trunk (.safetensors)")
    image_padding: Padding = Field(
        Padding.SYMMETRIC, description="padding of the trunk's strided convolutions; 'same' for TensorFlow weights"
    )
    image_mean: tuple[float, ...] | None = Field(
        None, min_length=3, max_length=3, description="pixel mean, one number a channel, of the image tower's input"
    )
    image_std: tuple[float, ...] | None = Field(
        None, min_length=3, max_length=3, description="pixel standard deviation, one number a channel"
    )
    resize_mode: Literal["shortest", "longest", "squash"] | None = Field(
        None, description="how an image becomes square: crop, pad or squash"
    )
    lock_image: bool = Field(False, description="keep the image trunk as it is and compute its features only once")
    feature_cache: Path | None = Field(
        None, description="folder for a locked trunk's features, to share between runs; default: in the run folder"
    )
    batch_norm: Literal["auto", "eval", "train"] = Field(
        "auto", description="batch normalisation by running ('eval') or batch statistics; auto: eval if pretrained"
    )

    loss: Literal["gcl", "clip", "pairwise"] = Field("gcl", description="what is minimised")
    reading: Reading = Field(Reading.R2, description="which candidates the GCL denominators hold")
    fusion: Fusion | None = Field(None, description="how features are added; default: raw, or as --start has it")
    temperature: float | None = Field(
        None, gt=0.001, le=1.0, description="softmax temperature at the start; default: the model's own (0.07 if new)"
    )
    learn_temperature: bool = Field(True, description="train the temperature, down to 0.01 at the lowest")

    batch_size: int = Field(256, ge=2, le=65_536, description="pairs in a step")
    num_epochs: float = Field(10.0, gt=0, le=100_000, description="passes over the training pairs")
    learning_rate: float = Field(1e-3, gt=0, le=1.0, description="AdamW's peak learning rate")
    weight_decay: float = Field(0.1, ge=0, le=10.0, description="AdamW's weight decay, matrices only")
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second momentum")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    mirror_images: bool = Field(False, description="mirror images at random; wrong for captions that say left or right")
    drop_tokens: float = Field(0.0, ge=0, lt=1, description="share of caption words left out at random")

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="forward pass; logits stay float32. auto: bf16 or fp16 on a GPU, else fp32"
    )
    num_workers: int = Field(0, ge=0, le=64, description="processes that decode images when they are not cached")
    cache_images_bytes: int = Field(
        4 * 1024**3, ge=0, description="decoded training images are kept in memory if they fit in this many bytes"
    )
    max_image_bytes: int = Field(20 * 1024**2, ge=1024, description="larger image files are bad rows")
    max_image_pixels: int = Field(64_000_000, ge=1024, le=178_000_000, description="larger images are bad rows")
    max_bad_share: float = Field(0.05, ge=0, le=1, description="above this share of bad rows the run stops")
    val_every_epochs: float = Field(
        1.0, gt=0, le=100_000, description="passes between two measurements on the held-out pairs"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses combinations that cannot be honoured."""
        if not self.data:
            raise ValueError("no training data: set --data to .tar shards or .jsonl manifests")
        if self.start and self.image_weights:
            raise ValueError("--start already holds image weights: give it or --image-weights, not both")
        if self.lock_image and not self.start and not self.image_weights:
            raise ValueError("--lock-image needs a trained image tower: --start or --image-weights")
        given = [name for name in ("image_mean", "image_std", "resize_mode") if getattr(self, name) is not None]
        if self.start and (given or self.image_padding is not Padding.SYMMETRIC):
            raise ValueError("--start brings its own preprocessing and padding: they cannot be set beside it")
        return self
