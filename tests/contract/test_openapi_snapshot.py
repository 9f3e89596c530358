"""The wire format changes only on purpose: the OpenAPI document is compared with the one committed.

After a change on purpose, write the new document with `python -m tests.contract.test_openapi_snapshot`.
"""

import json
from pathlib import Path
from typing import Any

from anykey.service.app import create_app
from anykey.service.errors import STATUS_BY_TYPE
from anykey.service.settings import ServiceSettings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def document() -> dict[str, Any]:
    """The document as JSON gives it back."""
    made: dict[str, Any] = json.loads(json.dumps(create_app(ServiceSettings()).openapi()))
    return made


def test_the_openapi_document_is_the_one_committed() -> None:
    assert document() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_both_bodies_of_search_are_described() -> None:
    made = document()
    content = made["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    for body in content.values():
        name = body["schema"]["$ref"].rpartition("/")[2]
        properties = made["components"]["schemas"][name]["properties"]
        assert set(properties) == {
            "text", "image", "k", "modalities", "pool", "exclude", "filter", "within", "text_weight", "instruction",
            "rerank", "exact", "snapshot", "key", "vector", "vector_modality", "parts", "exclude_query_keys",
            "min_score", "include", "offset", "cutoff", "group_by", "group_size", "duplicate_score", "diversity",
            "words", "join", "explain", "facets",
        }  # fmt: skip
    assert made["components"]["schemas"]["SearchForm"]["properties"]["image"]["items"]["format"] == "binary"


OF_OTHER_ROUTES = frozenset(
    {
        "method_not_allowed",
        "image_not_reached",
        "read_only",
        "index_locked",
        "precondition_failed",
        "idempotency_key_reused",
    }
)


def test_every_error_of_search_has_its_status_and_an_example() -> None:
    responses = document()["paths"]["/search"]["post"]["responses"]
    shown = {
        (int(status), name)
        for status, response in responses.items()
        for name in response["content"]["application/json"].get("examples", {})
    }
    assert shown == {(status, name) for name, status in STATUS_BY_TYPE.items() if name not in OF_OTHER_ROUTES}


def test_every_reference_leads_somewhere() -> None:
    made = document()
    references = {part.partition('"')[0] for part in json.dumps(made).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= made["components"]["schemas"].keys()
    assert "HTTPValidationError" not in json.dumps(made), "an error shape that is never sent"


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(document(), indent=2) + "\n", encoding="utf-8")
