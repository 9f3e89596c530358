"""Protects the error table: every error has a status, a row in the docs and an example; every encoder error maps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anykey.encoder.errors as encoder_errors
from anykey.service import errors
from anykey.service.openapi import EXAMPLE_MESSAGES, MEANINGS

API_DOC = Path(__file__).parents[3] / "docs" / "api.md"


def subclasses(root: type[Any]) -> Iterator[type[Any]]:
    for child in root.__subclasses__():
        yield child
        yield from subclasses(child)


SERVICE_ERRORS = [error for error in subclasses(errors.ServiceError) if error.__module__ == errors.__name__]


def missing_rows(types: dict[str, int], document: str) -> list[str]:
    """Error types without a row of their own with their status."""
    rows = [line for line in document.splitlines() if line.startswith("|")]
    return [name for name, status in types.items() if not any(f"`{name}`" in r and f" {status} " in r for r in rows)]


@pytest.mark.parametrize("error", SERVICE_ERRORS, ids=lambda error: error.__name__)
def test_every_service_error_is_in_the_table(error: type[errors.ServiceError]) -> None:
    assert error.type in errors.STATUS_BY_TYPE
    assert error("message").status == errors.STATUS_BY_TYPE[error.type]
    assert "type" in vars(error), "a wire error names its own type"
    assert f"{error.__name__} " in (errors.__doc__ or ""), "the tree at the top of errors.py is drawn in full"


def test_every_row_of_the_table_is_raised_by_exactly_one_error() -> None:
    assert sorted(error.type for error in SERVICE_ERRORS) == sorted(errors.STATUS_BY_TYPE)


def test_every_error_type_is_documented_with_its_status() -> None:
    assert missing_rows(dict(errors.STATUS_BY_TYPE), API_DOC.read_text(encoding="utf-8")) == []


def test_the_documentation_check_can_fail() -> None:
    assert missing_rows({"new_error": 418}, API_DOC.read_text(encoding="utf-8")) == ["new_error"]


def test_every_error_type_has_an_example_and_a_meaning() -> None:
    assert EXAMPLE_MESSAGES.keys() == errors.STATUS_BY_TYPE.keys()
    assert set(errors.STATUS_BY_TYPE.values()) - {405} <= MEANINGS.keys()


def test_every_error_an_item_can_have_becomes_a_client_error() -> None:
    kinds: list[type[encoder_errors.InvalidItemError]] = [
        encoder_errors.InvalidItemError,
        *subclasses(encoder_errors.InvalidItemError),
    ]
    for kind in kinds:
        assert 400 <= errors.from_item_error(kind("the reason", 3)).status < 500
    assert errors.from_item_error(encoder_errors.ItemTooLargeError("r")).type == "item_too_large"
    assert errors.from_item_error(encoder_errors.UndecodableImageError("r")).type == "undecodable_image"


def test_the_position_in_a_batch_is_not_told_to_a_single_client() -> None:
    assert errors.from_item_error(encoder_errors.UndecodableImageError("cannot decode", 3)).message == "cannot decode"
