"""Every knob of `anykey-train`, in groups: each part of the trainer takes the group that is its own.

To users they are one flat list of names. `TrainSettings` is of every group, so it is handed to any part as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from anykey.encoder.fusion import NATIVE, Fusion
from anykey.encoder.padding import Padding
from anykey.program.cache_folder import MAX_DATA_BYTES, MAX_FEATURES_BYTES
from anykey.program.image_limits import ImageLimitSettings
from anykey.program.settings import ProgramSettings
from anykey.sources.columns import parse_columns
from anykey.training.choices import CaptionSampling, Loss, Positives, Reading, parse_pair_weights

DEFAULT_ARCHITECTURE = "anykey-tiny"


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True)


class _PairSettings(_Group):
    data: list[str] = Field(
        [],
        description="training pairs: folders, .tar, .jsonl, .csv, .tsv, .parquet and .json files, URLs, pipe:COMMAND; "
        "{a,b} {0..9} * ? [] are patterns",
    )
    columns: list[str] = Field(
        [],
        description="What a row's fields are called, such as text=title,image=photo; the fields are key (what messages "
        "call it), text, image and group; text= and image= say that there is none",
    )
    val_data: list[str] = Field([], description="held-out pairs, measured during training and never trained on")
    data_cache: Path | None = Field(
        None, description="folder where remote data files are kept; default: in the user's cache folder"
    )
    max_data_cache_bytes: int = Field(
        MAX_DATA_BYTES,
        ge=0,
        description="most bytes of remote data files in that folder; those used longest ago are removed, except "
        "those that a run uses",
    )
    data_weights: list[float] = Field(
        [], description="how often a pass draws each --data entry's pairs, one number an entry; default: once each"
    )
    caption_sampling: CaptionSampling = Field(
        CaptionSampling.RANDOM, description="captions a pass uses: one at random, the first, or all, each in a pair"
    )
    hard_negatives: int = Field(1, ge=0, le=1000, description="listed negatives drawn for a pair at most")
    min_crop: float = Field(1.0, gt=0, le=1, description="smallest share of an image that a random crop keeps; 1: none")
    color_jitter: float = Field(0.0, ge=0, le=1, description="largest random change of colours")
    gray_share: float = Field(0.0, ge=0, le=1, description="share of images that lose their colour at random")
    mirror_images: bool = Field(False, description="mirror images at random; wrong for captions that say left or right")
    drop_tokens: float = Field(0.0, ge=0, lt=1, description="share of caption words left out at random")
    workers: int = Field(0, ge=0, le=64, description="processes that decode images when they are not cached")
    worker_timeout_s: float = Field(300.0, gt=0, description="longest time a worker may take over a batch")
    cache_images_bytes: int = Field(
        4 * 1024**3,
        ge=0,
        description="decoded images are kept in memory if they fit in this many bytes; for each of the training and "
        "the held-out pairs, and in each of torchrun's processes",
    )
    max_bad_share: float = Field(0.05, ge=0, le=1, description="above this share of bad rows the run stops")


class DataSettings(ImageLimitSettings, _PairSettings):
    """The pairs: where they are, what of them is refused, and what a batch draws and changes of them."""

    @model_validator(mode="after")
    def check_data(self) -> Self:
        """Refuses no data, and weights that do not fit them."""
        if not self.data:
            raise ValueError("no training data: set --data to a folder, files or URLs (docs/data.md)")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"--data-weights needs one number for each of the {len(self.data)} --data entries")
        if any(weight <= 0 for weight in self.data_weights):
            raise ValueError("--data-weights must be above 0: leave out a source instead")
        parse_columns(self.columns)
        return self

    @property
    def changes_pixels(self) -> bool:
        """Whether an image is another one each time it is drawn, beyond being mirrored."""
        return self.min_crop < 1 or self.color_jitter > 0 or self.gray_share > 0


class ModelSettings(_Group):
    """What is trained: where it starts, what images it takes, and which of it stays as it is."""

    start: str | None = Field(
        None, description="encoder to fine-tune: checkpoint directory, ARCHITECTURE@FILE or ARCHITECTURE/TAG"
    )
    family: Literal["towers", "fusion"] | None = Field(
        None,
        description="kind of a new model: two towers whose features are added, or native fusion, in which a text "
        "encoder reads patches of the image; default: towers, or what --start is",
    )
    stretch_positions: bool = Field(
        False,
        description="interpolate positional embeddings of --start ARCHITECTURE@FILE to the architecture's sizes",
    )
    architecture: str = Field(
        DEFAULT_ARCHITECTURE,
        description="without --start: open_clip name or .json configuration, trained from random weights; of family "
        "fusion anykey-fusion-mini (its default) or a .json configuration (docs/encoders.md)",
    )
    text_model: Path | None = Field(
        None,
        description="family fusion, without --start: directory of the BERT-like text encoder to begin with "
        "(config.json, tokenizer, weights); default: the one that the architecture names",
    )
    max_text_tokens: int | None = Field(
        None,
        ge=3,
        le=100_000,
        description="family fusion: tokens of a text that training reads at most; default: 128, or fewer where the "
        "model takes fewer",
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
    unlocked_image_groups: int = Field(
        0,
        ge=0,
        le=1000,
        description="with --lock-image: how many of the trunk's last layer groups train after all",
    )
    lock_text: bool = Field(False, description="keep the text tower as it is")
    unlocked_text_groups: int = Field(
        0, ge=0, le=1000, description="with --lock-text: how many of its last layer groups train after all"
    )
    feature_cache: Path | None = Field(
        None, description="folder for a locked trunk's features, to share between runs; default: in the run folder"
    )
    max_feature_cache_bytes: int = Field(
        MAX_FEATURES_BYTES,
        ge=0,
        description="most bytes of features in that folder; those used longest ago are removed",
    )
    batch_norm: Literal["auto", "eval", "train"] = Field(
        "auto", description="batch normalisation by running ('eval') or batch statistics; auto: eval if pretrained"
    )
    fusion: Fusion | None = Field(None, description="how features are added; default: raw, or as --start has it")
    temperature: float | None = Field(
        None,
        gt=0.001,
        le=1.0,
        description="softmax temperature at the start; default: the model's own (if new 0.07, of family fusion 0.02), "
        "and at least 0.05 where loss gcl fine-tunes",
    )

    @model_validator(mode="after")
    def check_start(self) -> Self:
        """Refuses two starts, and preprocessing beside a start."""
        if self.start and self.image_weights:
            raise ValueError("--start already holds image weights: give it or --image-weights, not both")
        given = [name for name in ("image_mean", "image_std", "resize_mode") if getattr(self, name) is not None]
        if self.start and (given or self.image_padding is not Padding.SYMMETRIC):
            raise ValueError("--start brings its own preprocessing and padding: they cannot be set beside it")
        if self.stretch_positions and "@" not in (self.start or ""):
            raise ValueError("--stretch-positions needs --start ARCHITECTURE@FILE: it stretches what a file holds")
        if self.start and self.text_model:
            raise ValueError("--start already holds a text encoder: give it or --text-model, not both")
        return self

    @model_validator(mode="after")
    def check_locks(self) -> Self:
        """Refuses locks of what is not there."""
        if self.lock_image and not self.start and not self.image_weights:
            raise ValueError("--lock-image needs a trained image tower: --start or --image-weights")
        if self.unlocked_image_groups and not self.lock_image:
            raise ValueError("--unlocked-image-groups needs --lock-image")
        if self.unlocked_text_groups and not self.lock_text:
            raise ValueError("--unlocked-text-groups needs --lock-text")
        return self

    @property
    def keeps_trunk(self) -> bool:
        """Whether all of the image trunk stays as it is, so that each image's features are computed once."""
        return self.lock_image and not self.unlocked_image_groups


class LossSettings(_Group):
    """What is minimised."""

    loss: Loss = Field(Loss.GCL, description="what is minimised")
    reading: Reading = Field(Reading.R2, description="which candidates the GCL denominators hold")
    pair_weights: list[str] = Field(
        [],
        description="weights of the loss's terms, as t>i=2,i>t=0.5; default: 1 between modalities; within one 0, or 1 "
        "where pairs have queries",
    )
    positives: Positives = Field(
        Positives.OWN, description="positives beside a pair's own: of pairs with the same image, or the same caption"
    )
    clip_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="adds this many times CLIP's loss (image to text and text to image); default: 3 with loss gcl "
        "and score fusion, else 0",
    )
    pairwise_weight: float = Field(
        0.0, ge=0, le=100, description="adds this many times the pairwise loss, with --pair-weights"
    )
    separation_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="adds this many times the separation within images and within texts; default: 0.5 with loss "
        "alignclip, else 0",
    )
    separation_encoder: str | None = Field(
        None,
        description="encoder of texts that says how near in meaning the separation takes two captions to be, such as a "
        "sentence-transformers directory; default: by the words they share (tf-idf)",
    )
    covariance_weight: float = Field(
        0.0, ge=0, le=1e6, description="adds this many times the distance of the modalities' whitened covariances"
    )
    hardness: float = Field(
        0.0,
        ge=0,
        le=100,
        description="softmax losses: how many times its cosine is added to a negative's logit, without a gradient",
    )
    learn_temperature: bool = Field(
        True, description="train the temperature, down to 0.01 or the start's if that is lower"
    )
    temperature_per_pair: bool = Field(False, description="learn one temperature for each pair of modalities")
    temperature_per_modality: bool = Field(
        False, description="learn one temperature for images and one for texts; two vectors compare by their mean"
    )

    @model_validator(mode="after")
    def check_terms(self) -> Self:
        """Refuses readings, weights and temperatures that the loss does not have."""
        weights = parse_pair_weights(self.pair_weights)
        if self.temperature_per_pair and not (self.learn_temperature and self.loss in (Loss.GCL, Loss.PAIRWISE)):
            raise ValueError("--temperature-per-pair needs a learned temperature and loss gcl or pairwise")
        if self.temperature_per_modality and (self.temperature_per_pair or not self.learn_temperature):
            raise ValueError("--temperature-per-modality needs a learned temperature, and not one for each pair")
        if self.separation_encoder and not self.separation:
            raise ValueError("--separation-encoder: nothing is separated, set --separation-weight")
        if self.hardness and self.loss in (Loss.SIGMOID, Loss.NORMALIZED):
            raise ValueError(f"--hardness: loss {self.loss} weighs its negatives otherwise")
        if self.loss in (Loss.CLIP, Loss.ALIGNCLIP) and weights and not self.pairwise_weight:
            raise ValueError(f"--pair-weights: loss {self.loss} has two terms of equal weight, i>t and t>i")
        if self.loss in (Loss.CLIP, Loss.ALIGNCLIP, Loss.PAIRWISE) and self.reading not in (Reading.R2, Reading.R5):
            raise ValueError(f"--reading {self.reading}: loss {self.loss} has denominators of its own (those of R5)")
        if self.loss is Loss.NORMALIZED and self.reading not in (Reading.R2, Reading.R5):
            raise ValueError(f"--reading {self.reading}: loss normalized has readings R2 and R5")
        if self.loss is Loss.SIGMOID and self.reading in (Reading.R1, Reading.R3):
            raise ValueError(f"--reading {self.reading}: loss sigmoid has no denominators, only R2, R4 and R5 differ")
        if self.reading is Reading.R4 and any(a == b and weight for (a, b), weight in weights.items()):
            raise ValueError("--reading R4 leaves out the anchor's modality: no --pair-weights within a modality")
        return self

    def clip(self, fusion: str) -> float:
        """Weight of CLIP's loss that is in force beside the loss itself, for a model with this kind of fusion."""
        if self.clip_weight is None:
            return 3.0 if self.loss is Loss.GCL and fusion != NATIVE else 0.0
        return self.clip_weight

    @property
    def separation(self) -> float:
        """Weight of the separation that is in force."""
        if self.separation_weight is None:
            return 0.5 if self.loss is Loss.ALIGNCLIP else 0.0
        return self.separation_weight

    @property
    def compares_fused(self) -> bool:
        """Whether any term compares fused vectors."""
        return self.loss not in (Loss.CLIP, Loss.ALIGNCLIP) or self.pairwise_weight > 0 or self.covariance_weight > 0


class OptimizerSettings(_Group):
    """How it learns."""

    batch_size: int = Field(256, ge=2, le=1_048_576, description="pairs in a step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="pairs that a process holds in memory at a time; the step is that of the whole batch"
    )
    num_epochs: float = Field(10.0, gt=0, le=100_000, description="passes over the training pairs")
    learning_rate: float = Field(1e-3, gt=0, le=1.0, description="AdamW's peak learning rate")
    weight_decay: float = Field(0.1, ge=0, le=10.0, description="AdamW's weight decay, matrices only")
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second momentum")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of a layer group, as a share of the next one's towards the output",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="measure and save an exponential moving average of the weights"
    )


class RunSettings(_Group):
    """Where a run is kept, on what it computes, and when it measures and saves."""

    output: Path = Field(Path("runs/default"), description="run folder")
    overwrite: bool = Field(False, description="delete the run in --output if it has other settings or data")
    report: bool = Field(True, description="end with report.html; false saves seconds, as of many small runs")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="forward pass; logits stay float32. auto: bf16 or fp16 on a GPU, else fp32"
    )
    checkpoint_activations: bool = Field(False, description="recompute activations in backward: less memory, slower")
    compile: bool = Field(False, description="compile the towers' blocks with torch.compile")
    shard: bool = Field(False, description="with torchrun: each process holds a part of the weights (FSDP2)")
    val_every_epochs: float = Field(
        1.0, gt=0, le=100_000, description="passes between two measurements on the held-out pairs"
    )
    save_every_steps: int = Field(
        500, ge=1, description="steps between two saved states, from which a stopped run goes on"
    )
    wandb_project: str | None = Field(None, description="Weights & Biases project to log to; needs the extra wandb")


# The first group comes last: pydantic lists the fields of the last base first, and checks them first.
class TrainSettings(RunSettings, OptimizerSettings, LossSettings, ModelSettings, DataSettings, ProgramSettings):
    """Trains an encoder on image-caption pairs with Generalized Contrastive Learning.

    Writes a run folder: best/ and last/ (checkpoint directories), metrics.jsonl, TensorBoard events,
    settings.json and bad_rows.jsonl. A run that is already there, finished, with the same settings and
    data is left as it is.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_TRAIN_")
    former_names: ClassVar[Mapping[str, str]] = {"num_workers": "workers"}

    @model_validator(mode="after")
    def check_what_is_drawn(self) -> Self:
        """Refuses changed images where each is seen once."""
        if self.keeps_trunk and self.changes_pixels:
            raise ValueError(
                "--lock-image computes each image's features once: --min-crop, --color-jitter and --gray-share "
                "need --unlocked-image-groups"
            )
        return self
