"""What dialects ask for beside the items: which model, what for, and how many numbers in which form.

They leave out, or send as null, what they have no word for; what they say that cannot be done is refused.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from anykey.encoder.protocol import ItemEncoder, Role
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.queries.parts import MAX_VECTOR_NUMBERS, finite_number, vector_of
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wrong_values import shown, wrong_value
from anykey.service.schemas import Limits
from anykey.service.searching.reranking import LoadedReranker

ModelT = TypeVar("ModelT", bound=BaseModel)
OWN_NAME = "anykey"
STARTED_AT = int(time.time())  # told of models where a dialect wants to know when they were made
ROLE_OF: Mapping[str, Role] = {
    # Cohere, Voyage, NVIDIA and others
    "query": Role.QUERY,
    "search_query": Role.QUERY,
    "document": Role.KEY,
    "passage": Role.KEY,
    "search_document": Role.KEY,
    "image": Role.KEY,
    "classification": Role.KEY,
    "clustering": Role.KEY,
    # Jina
    "retrieval.query": Role.QUERY,
    "retrieval.passage": Role.KEY,
    "code.query": Role.QUERY,
    "code.passage": Role.KEY,
    "text-matching": Role.KEY,
    "separation": Role.KEY,
    # Gemini
    "RETRIEVAL_QUERY": Role.QUERY,
    "QUESTION_ANSWERING": Role.QUERY,
    "FACT_VERIFICATION": Role.QUERY,
    "CODE_RETRIEVAL_QUERY": Role.QUERY,
    "RETRIEVAL_DOCUMENT": Role.KEY,
    "SEMANTIC_SIMILARITY": Role.KEY,
    "CLASSIFICATION": Role.KEY,
    "CLUSTERING": Role.KEY,
}

# What decides what vectors and scores are: the values that say what is done here anyway, and what that is.
Undone = Mapping[str, tuple[Sequence[Any], str]]
UNDONE_OF_VLLM: Undone = {
    "truncate_prompt_tokens": ((-1,), "texts are cut where the model's context ends, -1"),
    "mm_processor_kwargs": (({},), "images are made ready as the model was trained"),
}


@dataclass(frozen=True)
class Served:
    """What answers a request, and what it may ask for.

    Attributes:
        encoder: Whose vectors are given.
        rerankers: Cross-encoders by name.
        model_names: More names by which clients may call the encoder.
        limits: How much they may ask for.
    """

    encoder: ItemEncoder
    rerankers: Mapping[str, LoadedReranker]
    model_names: Sequence[str]
    limits: Limits

    @property
    def names(self) -> list[str]:
        """What clients may call the model that embeds."""
        return list(dict.fromkeys([OWN_NAME, self.encoder.name, *self.model_names]))

    def model_of(self, name: str | None) -> str:
        """How an answer names the model that embeds: as it was asked for.

        Args:
            name: As a client names it; absent or empty: whatever is served.

        Raises:
            InvalidRequestError: another model, whose vectors cannot be had here.
        """
        if name and name not in self.names:
            raise InvalidRequestError(
                f"model {shown(name)} is not served; known: {', '.join(self.names)}; the setting model_names adds more"
            )
        return name or OWN_NAME


def served_of(request: Request) -> Served:
    """What answers a request.

    Raises:
        NotReadyError: nothing does; says why.
        IndexUnavailableError: the index cannot be reached.
    """
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    rerankers = {one.scorer.name: one for one in parts.rerankers.all()}
    return Served(parts.encoder, rerankers, lifecycle.settings.model_names, lifecycle.limits)


def read_fields(body: bytes | bytearray, model: type[ModelT]) -> ModelT:
    """The fields of a JSON body; those that are null count as absent, and those that are not known are left out.

    Raises:
        InvalidRequestError: no JSON object, or a value of the wrong type; says which.
    """
    return checked_fields(parse_json(body, "the body"), model)


def checked_fields(fields: Any, model: type[ModelT], where: str = "") -> ModelT:
    """The same of JSON that has been parsed; `where` is what messages call it, where it is not the whole body."""
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"{where or 'the body'} must be a JSON object, got {shown(fields)}")
    known = {name: fields[name] for name in model.model_fields if fields.get(name) is not None}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        place = f"{where}.{name}" if where else name
        raise InvalidRequestError(wrong_value(place, first)) from error


def role_of(**words: str | None) -> Role:
    """What items are embedded for, by the fields that a dialect has for it; without any, as queries.

    Raises:
        InvalidRequestError: an unknown word, or two that contradict each other; says which field it is in.
    """
    said = {}
    for field, word in words.items():
        if word is None:
            continue
        if word not in ROLE_OF:
            raise InvalidRequestError(f"{field} must be one of {', '.join(ROLE_OF)}, got {shown(word)}")
        said[field] = ROLE_OF[word]
    if len(set(said.values())) > 1:
        raise InvalidRequestError(f"{' and '.join(said)}: expected one of both, or two that mean the same")
    return next(iter(said.values()), Role.QUERY)


def refuse_undone(fields: BaseModel, undone: Undone) -> None:
    """Makes sure that a request does not ask for vectors of another kind than there are.

    Args:
        fields: The request.
        undone: The fields that are looked at.

    Raises:
        InvalidRequestError: another value.
    """
    for name, (done, how) in undone.items():
        value = getattr(fields, name)
        if value is not None and not any(type(value) is type(one) and value == one for one in done):
            raise InvalidRequestError(f"{name}: {how}, got {shown(value)}")


def check_number(number: int, limit: int, where: str) -> None:
    """Makes sure that a request has something to embed, and not too much.

    Raises:
        InvalidRequestError: nothing.
        ItemTooLargeError: more than the limit.
    """
    if number == 0:
        raise InvalidRequestError(f"{where}: expected at least one item, got none")
    if number > limit:
        raise ItemTooLargeError(f"{where}: {number} items, at most {limit} are accepted")


def may_cut(truncate: Any, field: str) -> bool:
    """Whether a text that is longer than the model's context is cut at its end, or is an error.

    Raises:
        InvalidRequestError: it is to be cut elsewhere.
    """
    if truncate in (None, True, "END", "end", "right"):
        return True
    if truncate in (False, "NONE", "none"):
        return False
    raise InvalidRequestError(f"{field}: texts are cut at their end or not at all, got {shown(truncate)}")


def check_most_tokens(most: int | None, context: int, field: str) -> None:
    """Makes sure that no text is to be cut before the model's context ends.

    Raises:
        InvalidRequestError: one is.
    """
    if most is not None and most < context:
        raise InvalidRequestError(
            f"{field}: texts are cut where the model's context ends, at {context} tokens, got {most}"
        )


def numbers_of_vector(value: Sequence[Any], where: str) -> tuple[float, ...]:
    """The numbers of a vector that a client made.

    Raises:
        InvalidRequestError: they are none, too many, or all 0.
    """
    if len(value) > MAX_VECTOR_NUMBERS:
        raise InvalidRequestError(f"{where}: at most {MAX_VECTOR_NUMBERS} numbers, got {len(value)}")
    return vector_of([finite_number(number, f"{where}[{place}]") for place, number in enumerate(value)], where)
