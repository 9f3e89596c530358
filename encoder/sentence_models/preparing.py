"""An item as the model's own processor prepares it: with the prompt of its role, and cut where the context ends.

The library's processors are not made for several threads at once, so each thread has a model to itself meanwhile: a
copy that has no weights.
"""

import copy
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from anykey.encoder.errors import ItemTooLargeError, UnsupportedItemError
from anykey.encoder.plain_texts import control_tokens, spelled_out
from anykey.encoder.protocol import Role
from anykey.encoder.sentence_models.features import Features, Padding, text_length

MAX_AT_ONCE = 4  # threads that prepare images; each takes the memory of a tokenizer
NO_LIMIT = 10**9  # tokens; what tokenizers that know no limit give as theirs is more
_TASKS = {Role.QUERY: "query", Role.KEY: "document"}  # the library's words
# The prompts of each role, in the order in which they are looked for.
_PROMPTS = {Role.QUERY: ("query",), Role.KEY: ("document", "passage", "corpus")}
# Names that a processor has for what stands for an image or the like in a text.
_PLACEHOLDERS = ("image_token", "video_token", "audio_token", "vision_start_token", "vision_end_token")
_MEDIA = frozenset({"image", "video", "audio"})
_UNCUT = {"text": {"truncation": False, "verbose": False}}
_CUTS = 4  # tries to make a text fit beside images; the first one does but for tokens that depend on what follows


class Preparer:
    """Prepares items for one model; safe in any thread.

    Attributes:
        prompts: What the model is told of each role; empty where it has no prompt.
        max_tokens: The most tokens of an item; `None` for a model without a limit.
        padding: How tokens of several items are padded.
        takes_messages: Whether text, images and prompt are rendered by a chat template.
        takes_several_images: Whether an item may have more than one image.
    """

    def __init__(self, model: Any, name: str) -> None:
        """Copies what prepares items.

        Args:
            model: The library's model, on any device.
            name: Of the model, for messages.
        """
        self._name = name
        self.takes_messages = "message" in model.modalities
        formatter = getattr(model[0], "input_formatter", None)
        is_structured = getattr(formatter, "message_format", "structured") == "structured"
        self.takes_several_images = self.takes_messages and is_structured and "image" in model.modalities
        self._takes_options = _is_of_transformers(model[0])
        self._is_text_named = self._takes_options and not _MEDIA.isdisjoint(model.modalities)
        self.prompts = {role: _prompt(model.prompts, role) for role in Role}
        tokenizer = getattr(model, "tokenizer", None)
        self.padding = _padding(tokenizer)
        limit = model.max_seq_length
        self.max_tokens = int(limit) if limit is not None and limit < NO_LIMIT else None
        self._control = _control(model, tokenizer)
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(min(MAX_AT_ONCE, os.cpu_count() or 1) if "image" in model.modalities else 1):
            self._free.put(_without_weights(model))

    def plain(self, text: str) -> str:
        """A user's text, in which nothing is taken for a control token or for the place of an image."""
        return spelled_out(text, self._control)

    def prepare(
        self, text: str | None, images: Sequence[Image.Image], role: Role, instruction: str | None
    ) -> tuple[Features, bool]:
        """An item's features, and whether its text was cut.

        Args:
            text: The text, if there is one.
            images: The images, decoded.
            role: What the item is embedded for.
            instruction: What stands in the place of the role's prompt; `None` leaves that.

        Raises:
            ItemTooLargeError: the images alone are more than the model's context holds.
            UnsupportedItemError: its processor refuses the item; says why.
        """
        prompt = self.prompts[role] if instruction is None else self.plain(instruction)
        asked = {"prompt": prompt or None, "task": _TASKS[role]}
        with self._borrowed() as model:
            try:
                if images:
                    return self._beside_images(model, None if text is None else self.plain(text), images, asked)
                return self._of_text(model, self.plain(text or ""), asked)
            except ValueError as error:
                if isinstance(error, ItemTooLargeError):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UnsupportedItemError(f"model {self._name} cannot take the item: {reason}") from error

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        model = self._free.get()
        try:
            yield model
        finally:
            self._free.put(model)

    def _of_text(self, model: Any, text: str, asked: Mapping[str, Any]) -> tuple[Features, bool]:
        """A text as the library prepares it, which cuts it by itself."""
        # Given bare, a text that looks like the address or the path of a picture would be taken for that picture.
        item = {"text": text} if self._is_text_named else text
        features = _features(model, item, asked)
        if self.max_tokens is None or text_length(features) < self.max_tokens:
            return features, False
        if not self._takes_options:
            return features, True
        return features, text_length(_features(model, item, asked, uncut=True)) > self.max_tokens

    def _beside_images(
        self, model: Any, text: str | None, images: Sequence[Image.Image], asked: Mapping[str, Any]
    ) -> tuple[Features, bool]:
        """Images, and a text that is cut where the library would cut off what stands for the images."""
        image = images[0] if len(images) == 1 else list(images)
        features = _features(model, _item(text, image), asked, uncut=self._takes_options)
        is_cut = False
        for _ in range(_CUTS):
            excess = text_length(features) - (self.max_tokens or NO_LIMIT)
            if excess <= 0:
                return features, is_cut
            text = _shortened(model.tokenizer, text, excess)
            if not text:
                break
            features, is_cut = _features(model, _item(text, image), asked, uncut=True), True
        raise ItemTooLargeError(
            f"the images take more tokens than the {self.max_tokens} that model {self._name} reads of an item"
        )


def _features(model: Any, item: Any, asked: Mapping[str, Any], uncut: bool = False) -> Features:
    options = {"processing_kwargs": _UNCUT} if uncut else {}
    return {**model.preprocess([item], **asked, **options), "task": asked["task"]}  # some networks have a part for each


def _item(text: str | None, image: Any) -> Any:
    """One or several images, or a text and them, in the order in which the library's own examples name them."""
    if text is not None:
        return {"text": text, "image": image}
    return {"image": image} if isinstance(image, list) else image


def _is_of_transformers(module: Any) -> bool:
    """Whether a model's first module takes items by the names of their parts, and options of its processor."""
    from sentence_transformers.base.modules import Router, Transformer

    return isinstance(module, (Router, Transformer))


def _shortened(tokenizer: Any, text: str | None, excess: int) -> str:
    """A text that has this many tokens less; nothing where it has no more of them."""
    tokens = tokenizer(text or "", add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in tokens.offset_mapping]
    return (text or "")[: ends[-excess - 1]].rstrip() if excess < len(ends) else ""


def _prompt(prompts: Mapping[str, str], role: Role) -> str:
    """The model's prompt for a role; the first of its names that has one counts."""
    return next((prompts[name] for name in _PROMPTS[role] if prompts.get(name)), "")


def _padding(tokenizer: Any) -> Padding:
    fills = {
        "input_ids": getattr(tokenizer, "pad_token_id", None) or 0,
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", None) or 0,
    }
    return Padding(fills, getattr(tokenizer, "padding_side", "right") == "left")


def _control(model: Any, tokenizer: Any) -> list[str]:
    """What a text may not say to a tokenizer or a processor."""
    processor = getattr(model[0], "processor", None)
    found = {getattr(processor, name, None) for name in _PLACEHOLDERS}
    places = {name for name in found if isinstance(name, str) and len(name) > 1}
    return sorted({*control_tokens(tokenizer), *places})


def _without_weights(model: Any) -> Any:
    """A copy that prepares items as the model does; its tensors hold no memory."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors})
