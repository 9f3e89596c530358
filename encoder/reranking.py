"""Cross-encoders that sentence-transformers loads: they read a query and a key together and score how well they match.

That is more exact than comparing two vectors, and far slower: it is done for the best hits of a search only.

Most read texts; some read images, too.

Shape legend: B = batch, a pair a row.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.hugging_face import UNLOADABLE, load_and_compare, loading_quietly, without_network
from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.item import Item, Modality
from anykey.encoder.plain_texts import control_tokens, head_chars, head_of, spelled_out
from anykey.program.extras import require_library

if TYPE_CHECKING:
    from PIL.Image import Image

# How the classes end whose weights score a pair: a head with one number, or the next word, "yes" or "no".
_SCORING_CLASSES = ("ForSequenceClassification", "ForCausalLM")
_CONFIGURATIONS = (".json", ".txt", ".model", ".jinja")  # whatever else is there are weights, and prose
_BYTES_PER_TOKEN = 3  # of UTF-8: fewer than English has, and what one Chinese character is
_PATCH_PX = 28  # side of what is one token of an image, for most models
_ENDS = 3  # tokens that stand before, between and after the two parts


@dataclass(frozen=True)
class Part:
    """A query, or a key, as a cross-encoder is given it.

    Attributes:
        text: Its text, or `None`.
        images: Its images, none larger than the reranker wants them.
    """

    text: str | None
    images: "tuple[Image, ...]" = ()

    @property
    def num_text_tokens(self) -> int:
        """How long its text is, estimated."""
        return len((self.text or "").encode()) // _BYTES_PER_TOKEN

    @property
    def num_image_tokens(self) -> int:
        """How large its images are, estimated."""
        return sum(-(-image.width // _PATCH_PX) * -(-image.height // _PATCH_PX) for image in self.images)


@dataclass(frozen=True)
class Pair:
    """A query and a key.

    Attributes:
        query: What was searched for.
        key: What the corpus has.
        num_tokens: Of both together, estimated; at least 1.
    """

    query: Part
    key: Part
    num_tokens: int


class Reranker:
    """A loaded cross-encoder.

    `prepare` and `pair` may be called from any thread, `score` from one at a time.

    Attributes:
        name: What requests call it.
        fingerprint: Equal fingerprints give equal scores, up to the precision they are computed in.
        modalities: The kinds of query and key that it reads: texts alone, or images and both together, too.
        max_tokens: Of the texts of a query and a key together; longer ones are cut, the longer one first.
        device: Where it computes.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        fingerprint: str,
        *,
        max_tokens: int = 512,
        max_image_px: int = 768,
        limits: ImageLimits | None = None,
    ) -> None:
        """Takes a model of sentence-transformers; `load` reads one.

        Args:
            name: What requests call it.
            model: A `CrossEncoder` with one score for a pair.
            fingerprint: Of all that its scores depend on.
            max_tokens: Where the texts of a pair are cut, if the model takes more.
            max_image_px: What an image's longer side is shrunk to.
            limits: How large images may be.
        """
        self.name = name
        self.fingerprint = fingerprint
        self.modalities = frozenset(Modality) if _takes_images(model) else frozenset({Modality.TEXT})
        self.max_tokens = min(int(model.max_seq_length or max_tokens), max_tokens)
        self.device = str(model.device)
        self._model = model
        self._control = control_tokens(model.tokenizer)
        self._wants_typed_parts = _wants_typed_parts(model)
        self._max_image_px = max_image_px
        self._limits = limits
        if Modality.IMAGE not in self.modalities:  # the library's own cut would go through the tokens of an image
            model.max_seq_length = self.max_tokens

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights."""
        from anykey.encoder.backends import weights_bytes

        return weights_bytes(self._model, {})

    @classmethod
    def load(
        cls,
        name: str,
        directory: Path,
        *,
        device: str = "auto",
        max_tokens: int = 512,
        max_image_px: int = 768,
        limits: ImageLimits | None = None,
    ) -> "Reranker":
        """Reads a directory as sentence-transformers or transformers saves it; runs no code that lies in it.

        Args:
            name: What requests call it.
            directory: Holds configuration, tokenizer and weights; nothing is fetched.
            device: `auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, ...
            max_tokens: Where the texts of a pair are cut, if the model takes more.
            max_image_px: What an image's longer side is shrunk to.
            limits: How large images may be.

        Raises:
            MissingLibraryError: sentence-transformers is not installed.
            CheckpointNotFoundError: there is no such directory.
            CheckpointCorruptError: it is damaged, or holds no cross-encoder with one score for a pair.
            DeviceUnavailableError: no such device here.
        """
        if not directory.is_dir():
            raise CheckpointNotFoundError(f"reranker {name}: there is no directory {directory}")
        require_library("sentence_transformers", "st", f"reranker {name}")
        from anykey.encoder.checkpoint import digest_of
        from anykey.encoder.model import choose_device

        _check_scores_pairs(directory)
        model = _loaded(directory, str(choose_device(device)))
        if model.num_labels != 1:
            raise CheckpointCorruptError(f"{directory} gives {model.num_labels} scores for a pair, expected one")
        if not (model.supports("text") or model.supports("message")) or model.tokenizer is None:
            raise CheckpointCorruptError(f"{directory} scores no texts, but {', '.join(map(str, model.modalities))}")
        facts = {
            "files": _digests(directory),
            "max_tokens": min(int(model.max_seq_length or max_tokens), max_tokens),
            "max_image_px": max_image_px if _takes_images(model) else None,
        }
        identity = digest_of(facts, model.state_dict())
        return cls(name, model, identity, max_tokens=max_tokens, max_image_px=max_image_px, limits=limits)

    def prepare(self, item: Item) -> Part:
        """Bounds an item's text in characters, makes plain characters of control tokens in it, and shrinks its images.

        Args:
            item: A query or a key, of one of the model's modalities.

        Raises:
            InvalidItemError: an image cannot be read or is too large.
        """
        text = None
        if item.text is not None and item.has_text:
            text = spelled_out(head_of(item.text, head_chars(self.max_tokens))[0], self._control)
        return Part(text, tuple(map(self._decoded, item.images)))

    def pair(self, query: Part, key: Part) -> Pair:
        """A query and a key, as `prepare` gave them."""
        num_text_tokens = min(self.max_tokens, _ENDS + query.num_text_tokens + key.num_text_tokens)
        return Pair(query, key, num_text_tokens + query.num_image_tokens + key.num_image_tokens)

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Scores `[B]` of pairs, computed in one batch; higher is better, on the model's own scale."""
        inputs = [self._input_of(pair) for pair in pairs]
        scores_B = self._model.predict(inputs, batch_size=max(1, len(inputs)), show_progress_bar=False)
        return np.asarray(scores_B, dtype=np.float32).reshape(len(pairs))

    def _input_of(self, pair: Pair) -> tuple[Any, Any]:
        query, key = pair.query.text or "", pair.key.text or ""
        if Modality.IMAGE in self.modalities:
            query, key = self._cut(query, key)
        if self._wants_typed_parts:
            return _typed(query, pair.query.images), _typed(key, pair.key.images)
        return query, key

    def _cut(self, query: str, key: str) -> tuple[str, str]:
        """Both texts, of `max_tokens` together, as the library cuts those of models without images."""
        ends_of = [self._token_ends(text) for text in (query, key)]
        query_room, key_room = (max(self.max_tokens - len(other), self.max_tokens // 2) for other in reversed(ends_of))
        query_ends, key_ends = ends_of
        return (
            query[: query_ends[query_room - 1]] if len(query_ends) > query_room else query,
            key[: key_ends[key_room - 1]] if len(key_ends) > key_room else key,
        )

    def _token_ends(self, text: str) -> list[int]:
        """Behind which character each token of a text ends."""
        tokens = self._model.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        return [end for _, end in tokens["offset_mapping"]]

    def _decoded(self, image: "bytes | str | Path | Image") -> "Image":
        """The picture, shrunk where it is larger than wanted."""
        decoded = decode_image(image, self._limits, self._max_image_px)
        if max(decoded.size) <= self._max_image_px:
            return decoded
        shrunk = decoded.copy()  # of a picture that was given decoded, its owner's stays as it is
        shrunk.thumbnail((self._max_image_px, self._max_image_px))
        return shrunk


def _typed(text: str, images: "Sequence[Image]") -> dict[str, Any]:
    """A part with its kinds, as the library wants it: an image before the text that is about it."""
    typed: dict[str, Any] = {"image": list(images)} if images else {}
    return {**typed, "text": text} if text or not images else typed


def _takes_images(model: Any) -> bool:
    """Whether a query or a key may have images, beside a text or alone; their texts are cut by a fast tokenizer."""
    return bool(model.supports("image") and _wants_typed_parts(model) and model.tokenizer.is_fast)


def _wants_typed_parts(model: Any) -> bool:
    """Whether a text must be marked as one, or the library takes an address or a path for the image that is there."""
    formatter = getattr(model[0], "input_formatter", None)
    return bool(model.supports("message") and getattr(formatter, "message_format", "") == "structured")


def _check_scores_pairs(directory: Path) -> None:
    """Refuses what the library would give a head of random weights: an encoder, say.

    Raises:
        CheckpointCorruptError: it is damaged, or no cross-encoder.
    """
    if _configuration(directory, "config_sentence_transformers.json").get("model_type") == "CrossEncoder":
        return
    named = _configuration(directory, "config.json").get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    if not any(name.endswith(_SCORING_CLASSES) for name in names):
        came = f"config.json names {', '.join(names)}" if names else "no config.json names its class"
        raise CheckpointCorruptError(
            f"{directory} is no cross-encoder: {came}, expected one that ends with {' or '.join(_SCORING_CLASSES)}"
        )


def _configuration(directory: Path, name: str) -> dict[str, Any]:
    """A file's JSON object; nothing if there is none."""
    path = directory / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _loaded(directory: Path, device: str) -> Any:
    """The model, all of whose weights come from the directory.

    Raises:
        CheckpointCorruptError: the library cannot load it, or weights are not there.
    """
    model, drawn, _ = load_and_compare(lambda: _read(directory, device))
    if drawn:
        raise CheckpointCorruptError(f"{directory} has no weights for {', '.join(drawn[:3])}")
    return model


def _read(directory: Path, device: str) -> Any:
    """The model as the library gives it.

    Raises:
        CheckpointCorruptError: it cannot be loaded.
    """
    from sentence_transformers import CrossEncoder

    try:
        with without_network(), loading_quietly():
            return CrossEncoder(str(directory), device=device, local_files_only=True, trust_remote_code=False)
    except UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointCorruptError(f"{directory} cannot be loaded as a cross-encoder: {reason}") from error


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of configuration and tokenizer, by its path below the directory."""
    files = [path for path in sorted(directory.rglob("*")) if path.suffix in _CONFIGURATIONS and path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
