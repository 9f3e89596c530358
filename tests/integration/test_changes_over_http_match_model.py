"""A service that is changed, searched, killed and started again holds what a dictionary holds that is changed alike."""

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from anykey.encoder.item import Item, Modality
from anykey.index.changes import merged
from anykey.index.filtering.facets import ValueFacet
from anykey.index.hits import Hit, Payload
from anykey.index.key_index import NewKey
from tests.changing_server import ServiceProcess
from tests.counted_values import counts_of
from tests.live_model import FAKE, Model
from tests.serving import build_real_index, stored

MOST_KILLS = 2  # of an example: a start takes a second
names = st.sampled_from(["a", "b/c", "d e", "count", "\u9375"])
texts = st.lists(st.sampled_from(["one", "three", "seventeen", "a", "at"]), min_size=1, max_size=6).map(" ".join)
prices = st.integers(0, 3)
entries = st.tuples(names, texts, prices)


class Changes(RuleBasedStateMachine):
    """Drives one index directory, and the dictionary beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self._folder = tempfile.TemporaryDirectory()
        self._process: ServiceProcess | None = None
        self._num_kills = 0

    @initialize()
    def build(self) -> None:
        """Begins with one key."""
        texts = {"built": "from the corpus"}
        keys = [stored(key, Item(text=text)) for key, text in texts.items()]
        self.index_dir = build_real_index(Path(self._folder.name), FAKE, keys)
        self.model.build(texts)
        self.start()

    @property
    def process(self) -> ServiceProcess:
        """The service, which is running."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Starts the service; a version is made after every few changes."""
        self._process = ServiceProcess(self.index_dir, "--writable", "--fold-after", "6", "--writer-idle-s", "0.2")

    def send(self, method: str, address: str, body: Any = None, **headers: str) -> Any:
        """What the service answers; it must not fail."""
        response = self.process.client.request(method, address, json=body, headers=headers)
        assert response.status_code < 500, response.text
        return response.json()

    @rule(changed=st.lists(entries, min_size=1, max_size=4), atomic=st.booleans())
    def put(self, changed: list[tuple[str, str, int]], atomic: bool) -> None:
        """Stores keys."""
        keys = [{"key": key, "text": text, "metadata": {"price": price}} for key, text, price in changed]
        answer = self.send("PUT", "/keys", {"keys": keys, "atomic": atomic})
        assert answer["num_stored"] == len(changed)
        self._store(changed)

    @rule(changed=st.lists(entries, min_size=1, max_size=8))
    def stream(self, changed: list[tuple[str, str, int]]) -> None:
        """Stores keys line by line."""
        lines = [{"key": key, "text": text, "metadata": {"price": price}} for key, text, price in changed]
        body = "\n".join([*map(json.dumps, lines), "{"])
        answer = self.process.client.put("/keys", content=body, headers={"Content-Type": "application/x-ndjson"})
        summary = json.loads(answer.text.splitlines()[-1])
        assert (summary["num_stored"], summary["num_failed"]) == (len(changed), 1)
        self._store(changed)

    @rule(key=names, price=prices)
    def patch(self, key: str, price: int) -> None:
        """Changes metadata of a key that may be there."""
        answer = self.send("PATCH", f"/keys/{_quoted(key)}", {"metadata": {"price": price, "patched": True}})
        assert ("error" in answer and answer["error"] is not None) == (key not in self.model.entries)
        if key in self.model.entries:
            new = self.model.entries[key].new
            metadata = merged(new.metadata, {"price": price, "patched": True})
            self.model.upsert([NewKey(key, new.vector_D, new.text, metadata=metadata)])

    @rule(key=names)
    def delete(self, key: str) -> None:
        """Deletes a key that may be there."""
        answer = self.send("DELETE", f"/keys/{_quoted(key)}")
        assert (answer.get("status") == "deleted") == (self.model.delete([key]) == 1)

    @rule(price=prices)
    def delete_scope(self, price: int) -> None:
        """Deletes keys by a filter."""
        gone = [key for key, entry in self.model.entries.items() if entry.new.metadata.get("price") == price]
        answer = self.send("POST", "/keys/delete", {"filter": {"field": "price", "eq": price}})
        assert answer["num_deleted"] == self.model.delete(gone) == len(gone)

    @rule(key=names, text=texts)
    def put_if_absent(self, key: str, text: str) -> None:
        """Stores a key only if there is none of its name."""
        answer = self.send("PUT", f"/keys/{_quoted(key)}", {"text": text}, **{"If-None-Match": "*"})
        assert (answer.get("status") == "stored") == (key not in self.model.entries)
        if key not in self.model.entries:
            self.model.upsert([NewKey(key, FAKE.encode([Item(text=text)])[0], text)])

    @precondition(lambda self: self._num_kills < MOST_KILLS)
    @rule()
    def kill(self) -> None:
        """Kills the service, at whatever it is, and starts it again."""
        self._num_kills += 1
        self.process.kill()
        self.start()

    @rule(text=texts)
    def search(self, text: str) -> None:
        """Finds what the dictionary finds."""
        answer = self.send("POST", "/search", {"text": text, "k": 20, "exact": True, "facets": ["price", "patched"]})
        rows = [each.new.metadata for each in self.model.entries.values()]
        for counts, name in zip(answer["facets"], ("price", "patched"), strict=True):
            expected = counts_of(ValueFacet((name,)), rows)
            assert [(one["value"], one["num_keys"]) for one in counts["values"]] == list(expected.values)
            assert (counts["num_keys"], counts["num_missing"]) == (expected.num_keys, expected.num_missing)
        hits = [
            Hit(
                hit["key"],
                hit["score"],
                hit["rank"],
                Modality(hit["modality"]),
                Payload(hit["payload"]["text"], hit["payload"]["metadata"]),
            )
            for hit in answer["hits"]
        ]
        self.model.check_hits(hits, FAKE.encode([Item(text=text)])[0], 20)

    @invariant()
    def holds_the_same_keys(self) -> None:
        """Lists what the dictionary holds."""
        if self._process is None:
            return
        listed = self.send("GET", "/keys")["keys"]
        found = {key["key"]: (key["payload"]["text"], key["payload"]["metadata"]) for key in listed}
        assert found == {key: (each.new.text, each.new.metadata) for key, each in self.model.entries.items()}
        assert [key["key"] for key in listed] == sorted(self.model.entries)

    def teardown(self) -> None:
        """Ends the service."""
        if self._process is not None:
            self._process.kill()
        self._folder.cleanup()

    def _store(self, changed: list[tuple[str, str, int]]) -> None:
        vectors = FAKE.encode([Item(text=text) for _, text, _ in changed])
        self.model.upsert(
            NewKey(key, vector_D, text, metadata={"price": price})
            for (key, text, price), vector_D in zip(changed, vectors, strict=True)
        )


def _quoted(key: str) -> str:
    return quote(key, safe="")


def drive(num_examples: int, num_steps: int) -> None:
    checked = settings(
        max_examples=num_examples,
        stateful_step_count=num_steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Changes, settings=checked)


def test_changes_over_http_match_a_dictionary() -> None:
    drive(num_examples=1, num_steps=15)


@pytest.mark.slow
def test_many_changes_over_http_match_a_dictionary() -> None:
    drive(num_examples=30, num_steps=40)
