"""The pairs of a run, read, decoded and, for a locked trunk, embedded.

Shape legend: I = images, F = width of a locked trunk's features, S = texts, W = width of their meanings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.encoder.protocol import Role
from anykey.program.progress import Display
from anykey.sources.columns import parse_columns
from anykey.sources.pairs import ConcatenatedPairs, open_pairs
from anykey.training.choices import Loss, Positives
from anykey.training.distributed import Processes
from anykey.training.errors import InvalidRecipeError
from anykey.training.family import Family
from anykey.training.features import trunk_features
from anykey.training.run_folder import RunFolder
from anykey.training.settings import DataSettings, LossSettings, TrainSettings
from anykey.training.table import Advance, ImageReader, PairTable, read_table

_TEXTS_AT_ONCE = 1024


@dataclass
class RunData:
    """Pairs ready for the loop; features are there when the trunk is wholly locked.

    Attributes:
        train: What is trained on.
        val: What is held out.
        train_features: float32 `[1 or 2, I, F...]`: as they are and, if wanted, mirrored.
        val_features: float32 `[1, I, F...]`.
        meanings_SW: What the training texts mean, unit vectors, if the loss asks an encoder for it.
    """

    train: PairTable
    val: PairTable | None = None
    train_features: Tensor | None = None
    val_features: Tensor | None = None
    meanings_SW: Tensor | None = None


def read_data(
    settings: TrainSettings,
    family: Family,
    progress: Display,
    folder: RunFolder,
    processes: Processes,
) -> RunData:
    """Reads the training and held-out pairs.

    Raises:
        SourceError: the data cannot be used.
        InvalidRecipeError: too few pairs for contrastive training, or no image for a locked trunk.
    """
    is_cached = settings.keeps_trunk
    train = _read_table(settings, family, "read pairs", settings.data, is_cached, progress, folder)
    if len(train) < 2:
        raise InvalidRecipeError("contrastive training needs at least 2 pairs, found 1")
    _check_terms(train, settings)
    if is_cached and train.num_images == 0:
        raise InvalidRecipeError("--lock-image needs images to compute the features of, --data has texts alone")
    data = RunData(train)
    if settings.separation_encoder is not None:
        data.meanings_SW = _meanings(train, settings.separation_encoder, settings.device, progress)
    if settings.val_data:
        data.val = _read_table(settings, family, "read held-out pairs", settings.val_data, True, progress, folder)
        if not len(data.val.captioned().image_P):
            raise InvalidRecipeError("--val-data needs pairs of an image and a caption to measure on, found none")
    if is_cached:
        if not processes.is_main:  # one process computes, the others find it done
            processes.wait()
        _embed_images(data, settings, family, progress)
        if processes.is_main:
            processes.wait()
    return data


def _meanings(table: PairTable, source: str, device: str, progress: Display) -> Tensor:
    """Unit vectors `[S, W]` of the table's texts by another encoder; every process computes them."""
    encoder = Encoder.load(source, device)
    texts = table.texts()
    advance = progress.begin("embed captions", len(texts))
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        items = [Item(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
        parts.append(torch.from_numpy(encoder.encode(items, role=Role.KEY)))
        advance(len(items))
    return torch.cat(parts)


def _check_terms(table: PairTable, settings: LossSettings) -> None:
    """Refuses data of which the loss has nothing to learn."""
    has_image_P, has_text_P = table.has_sides()
    has_both_P = has_image_P & has_text_P
    num_images, num_texts = int((~has_text_P).sum()), int((~has_image_P).sum())
    counts = f"of {len(table)} pairs {num_images} have no text and {num_texts} have no image"
    if settings.loss in (Loss.CLIP, Loss.ALIGNCLIP) and not has_both_P.any():
        raise InvalidRecipeError(f"loss {settings.loss} needs pairs with an image and a text: {counts}")
    if settings.positives is Positives.OWN and not (has_both_P | table.has_query_P).any():
        raise InvalidRecipeError(f"no pair has two sides that belong together: {counts}")


def _embed_images(data: RunData, settings: TrainSettings, family: Family, progress: Display) -> None:
    cache_dir = settings.feature_cache or settings.output / "features"
    num_images = data.train.num_images * (2 if settings.mirror_images else 1)
    advance = progress.begin("embed images", num_images + (data.val.num_images if data.val else 0))
    max_bytes = settings.max_feature_cache_bytes
    data.train_features = trunk_features(family, data.train, settings.mirror_images, cache_dir, advance, max_bytes)
    if data.val is not None:
        data.val_features = trunk_features(family, data.val, False, cache_dir, advance, max_bytes)


def open_table(
    pairs: ConcatenatedPairs,
    family: Family,
    settings: DataSettings,
    check_images: bool = True,
    advance: Advance = lambda count: None,
) -> PairTable:
    """Reads opened pairs once, as a run with these settings does for this model.

    Args:
        pairs: What `open_pairs` gives.
        family: Splits texts, and says what images it takes.
        settings: Limits of images, the memory for them, and the largest share of bad rows.
        check_images: Decode every image now, where a bad one could not be left out later.
        advance: Told after each pair.

    Raises:
        TooManyBadRowsError: the data are worse than the settings allow.
        NoPairsError: not one pair is left.
    """
    return read_table(
        source=pairs,
        tokenize=family.tokenize,
        reader=ImageReader(family.image_input, ImageLimits.of(settings)),
        cache_images_bytes=settings.cache_images_bytes,
        max_bad_share=settings.max_bad_share,
        advance=advance,
        check_images=check_images,
        entry_lengths=pairs.lengths,
    )


def num_halves(table: PairTable) -> tuple[int, int]:
    """How many pairs are an image alone, and how many a text alone; those that a query asks for are not counted."""
    own_P = table.item_start_P[:-1]
    has_image_P = table.item_image_J[own_P] >= 0
    has_text_P = table.item_text_J[own_P + 1] > table.item_text_J[own_P]
    is_plain_P = ~table.has_query_P
    images, texts = has_image_P & ~has_text_P & is_plain_P, has_text_P & ~has_image_P & is_plain_P
    return int(images.sum()), int(texts.sum())


def _read_table(
    settings: DataSettings,
    family: Family,
    name: str,
    sources: Sequence[str],
    check_images: bool,
    progress: Display,
    folder: RunFolder,
) -> PairTable:
    columns = parse_columns(settings.columns)
    pairs = open_pairs(sources, settings.data_cache, settings.max_data_cache_bytes, columns)
    advance = progress.begin(name, len(pairs))
    table = open_table(pairs, family, settings, check_images, advance)
    folder.log_bad_rows(table.bad_rows)
    if table.bad_rows:
        progress.print(f"{name}: {len(table.bad_rows)} of {len(pairs)} rows skipped, see bad_rows.jsonl")
    images, texts = num_halves(table)
    if images or texts:
        progress.print(f"{name}: {images} of {len(table)} rows are images without a text, {texts} are texts alone")
    if table.num_cut_texts:
        length = table.tokens_ST.shape[1]
        progress.print(
            f"{name}: {table.num_cut_texts} of {len(table.tokens_ST)} texts are longer than the model's context of "
            f"{length} tokens; what follows is not learned"
        )
    return table
