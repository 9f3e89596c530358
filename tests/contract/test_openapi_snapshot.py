"""The wire format changes only on purpose: the OpenAPI document is compared with the one committed.

After a change on purpose, write the new document with `python -m tests.contract.test_openapi_snapshot`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from anykey.service.app import create_app
from anykey.service.errors import STATUS_BY_TYPE
from anykey.service.settings import ServiceSettings

SNAPSHOT = Path(__file__).with_name("openapi.json")


@cache
def document() -> dict[str, Any]:
    """The document as JSON gives it back; made once, because that takes long."""
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
    made = document()
    responses = made["paths"]["/search"]["post"]["responses"]
    shared = {f"#/components/responses/{name}": response for name, response in made["components"]["responses"].items()}
    shown = {
        (int(status), name)
        for status, response in responses.items()
        for name in shared.get(response.get("$ref"), response)["content"]["application/json"].get("examples", {})
    }
    assert shown == {(status, name) for name, status in STATUS_BY_TYPE.items() if name not in OF_OTHER_ROUTES}


def test_operations_say_which_key_they_ask_for_and_every_reference_leads_somewhere() -> None:
    made = document()
    asked = {
        f"{method.upper()} {path}": operation.get("security", [{}])
        for path, methods in made["paths"].items()
        for method, operation in methods.items()
    }
    assert set(made["components"]["securitySchemes"]) == {"bearer", "api-key"}
    assert asked["PUT /keys/{key}"] == [{"bearer": ["write"]}, {"api-key": ["write"]}]
    assert asked["POST /indexes/{index_name}/search"] == [{"bearer": ["search"]}, {"api-key": ["search"]}]
    assert asked["GET /info"] == [{"bearer": []}, {"api-key": []}]
    assert asked["GET /readyz"] == [{}]
    references = {part.partition('"')[0] for part in json.dumps(made).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= made["components"]["schemas"].keys()
    assert "HTTPValidationError" not in json.dumps(made), "an error shape that is never sent"


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(document(), indent=2) + "\n", encoding="utf-8")
