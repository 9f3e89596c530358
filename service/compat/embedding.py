"""What embedding is in every dialect: items to vectors, all of them or an error, and an answer written off the loop.

Shape legend: D = width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from anykey.encoder.protocol import Role
from anykey.service.answers.written import WrittenAnswer
from anykey.service.embedding.vectors import cut_vector
from anykey.service.errors import InvalidRequestError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.queries.query import ItemPart
from anykey.service.requests.body import Take, json_parser
from anykey.service.requests.context import REQUEST_ID, note
from anykey.service.requests.exchange import exchange


@dataclass(frozen=True)
class Embedding:
    """What a dialect tells of one item.

    Attributes:
        vector_D: Its unit vector, of the width that was asked for.
        num_tokens: What it took through the model.
        is_text_cut: Whether its text is longer than the model's context.
    """

    vector_D: NDArray[np.float32]
    num_tokens: int
    is_text_cut: bool


@dataclass(frozen=True)
class Asked:
    """What a request asks for, in whichever dialect.

    Attributes:
        items: What to embed.
        role: What for.
        width: How many numbers of each vector.
        may_cut: Whether a text that is longer than the model's context is cut; else it is an error.
        write: The answer for a request's id and the items' vectors; called in a thread.
    """

    items: tuple[ItemPart, ...]
    role: Role
    width: int
    may_cut: bool
    write: Callable[[str, Sequence[Embedding]], bytes]


async def answer_embeddings(request: Request, read: Callable[[bytearray], Asked]) -> Response:
    """Answers a request that asks in JSON for the vectors of items.

    Args:
        request: The request; its body has not been read.
        read: What the JSON asks for; called in a thread.

    Raises:
        ServiceError: as `read`, or an item cannot be embedded; says which.
    """
    parse = json_parser(request.headers, lifecycle_of(request).limits, read, absent="application/json")
    return await answer_embeddings_of(request, parse)


async def answer_embeddings_of(request: Request, parse: Callable[[bytearray, Take], Asked]) -> Response:
    """Answers a request for the vectors of items, whatever it is written in.

    Args:
        request: The request; its body has not been read.
        parse: What the body asks for, as `exchange` calls it.

    Raises:
        ServiceError: as `parse`, or an item cannot be embedded; says which.
    """
    parts, deadline_ms = parts_of(request), lifecycle_of(request).settings.embed_deadline_ms

    async def answer(asked: Asked) -> Response:
        note(request, num_items=len(asked.items), role=asked.role)
        made = await embed_all(request, asked.items, asked.role, asked.width, may_cut=asked.may_cut)
        write = partial(asked.write, str(request.scope.get(REQUEST_ID, "")), made)
        return WrittenAnswer([await parts.body_threads.run(write)])

    return await exchange(request, parts.body_threads, parse, answer, deadline_ms)


async def embed_all(
    request: Request, items: Sequence[ItemPart], role: Role, width: int, *, may_cut: bool = True
) -> list[Embedding]:
    """The vectors of items, in their order.

    Args:
        request: The request that they are for.
        items: The items.
        role: What they are embedded for.
        width: How many numbers of each vector.
        may_cut: Whether a text that is longer than the model's context is cut.

    Raises:
        ServiceError: one cannot be embedded; says which.
    """
    parts = parts_of(request)
    made = await parts.items_embedder.embed_all(items, role)
    for item, one in zip(items, made, strict=True):
        if one.is_text_cut and not may_cut:
            most = parts.encoder.context_length
            raise InvalidRequestError(f"{item.where}: the text has more than the {most} tokens that the model reads")
    found = [Embedding(one.vector_D, one.num_tokens, one.is_text_cut) for one in made]
    if width == parts.encoder.width:
        return found
    return [replace(one, vector_D=cut_vector(one.vector_D, width)) for one in found]
