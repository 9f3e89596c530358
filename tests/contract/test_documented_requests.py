"""The examples of the pages on HTTP and on our client are run as they stand, and answered in the shape they show.

A block of `console` is run by bash and curl, one of `python` by this interpreter, and of a block of `json` the members
tell what it is: an answer, or a request to the address that its section is about.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.app import create_app
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, jpeg, png
from tests.serving import build_real_index, make_settings, running, stored
from tests.unit.service.test_reranking import FakeScorer

DOCS = Path(__file__).parents[2] / "docs"
ADDRESS = "localhost:8000"
UNDONE = '{"seq": 19}'  # the change that was made by the command before
SNAPSHOT = "3f9a01c2.7d00b1e4.1.1207"
PARTS = [{"text": "a red mug"}, {"text": "blue", "weight": -0.5}]
FREE = {"metadata", "modalities", "pools"}  # objects whose members are the user's


@dataclass
class Block:
    """A block of a page: where it is, in which language, and what it holds."""

    line: int
    sections: tuple[str, ...]
    language: str
    text: str


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page."""
    found, sections, begun = [], ["", ""], None
    for number, line in enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), 1):
        if begun is None and (heading := re.match(r"(##|###) (.+)", line)):
            sections[len(heading[1]) - 2 :] = [heading[2], ""][: 4 - len(heading[1])]
        elif begun is None and line.startswith("```"):
            begun = Block(number, tuple(sections), line[3:], "")
        elif begun is not None and line == "```":
            found.append(begun)
            begun = None
        elif begun is not None:
            begun.text += line + "\n"
    return found


def values_of(text: str) -> list[Any]:
    """One JSON value, or one a line."""
    values, at, decoder = [], 0, json.JSONDecoder()
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        values.append(value)
    return values


def misshapen(shown: Any, came: Any, where: str = "answer") -> list[str]:
    """Where an answer has not the shape that is shown: members that are missing, and values of other types."""
    if shown is None or came is None:
        return []
    if isinstance(shown, bool) or not isinstance(shown, int | float):
        if type(shown) is not type(came):
            return [f"{where}: shown {shown!r}, came {came!r}"]
    elif isinstance(came, bool) or not isinstance(came, int | float):
        return [f"{where}: shown {shown!r}, came {came!r}"]
    if isinstance(shown, dict) and where.rpartition(".")[2] not in FREE:
        missing = [f"{where}: no {name!r} in {sorted(came)}" for name in shown if name not in came]
        both = (name for name in shown if name in came)
        return missing + [fault for name in both for fault in misshapen(shown[name], came[name], f"{where}.{name}")]
    if isinstance(shown, list) and shown and not came:
        return [f"{where}: shown {len(shown)}, came none"]
    if isinstance(shown, list):
        pairs = zip(shown, [*came, *[came[-1]] * len(shown)] if came else [], strict=False)
        return [fault for n, (a, b) in enumerate(pairs) for fault in misshapen(a, b, f"{where}[{n}]")]
    return []


@dataclass
class Reader:
    """Runs blocks against a service, in a folder that has what they name."""

    client: httpx.Client
    folder: Path
    last: Any = None

    def real(self, text: str) -> str:
        """Text of a page with what it leaves out, and this service's address."""
        snapshot = self.client.post("/search", json={"text": "x", "offset": 0}).json()["snapshot"]
        text = text.replace("<base64>", as_base64(png())).replace(SNAPSHOT, snapshot)
        if isinstance(self.last, dict) and isinstance(self.last.get("seq"), int):
            text = text.replace(UNDONE, json.dumps({"seq": self.last["seq"]}))
        return text.replace(ADDRESS, self.client.base_url.netloc.decode())

    def console(self, block: Block) -> int:
        """Runs each command, and compares what it prints with what is shown below it; gives how many it ran."""
        num_run = 0
        for piece in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = re.sub(r"\\\n", " ", piece).partition("\n")
            if not command.startswith("curl "):
                assert command.startswith("anykey-"), f"line {block.line}: neither curl nor ours: {command}"
                continue
            done = subprocess.run(
                ["bash", "-c", self.real(command.replace("curl ", "curl --fail-with-body --noproxy '*' ", 1))],
                cwd=self.folder, capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"line {block.line}: {command}\n{done.stdout}{done.stderr}"
            self.last = json.loads(done.stdout)
            for value in values_of(shown):
                assert misshapen(value, self.last) == [], f"line {block.line}: {command}"
            num_run += 1
        return num_run

    def values(self, block: Block) -> None:
        """Sends what is a request, and compares what is an answer with the last one, or one that is asked for."""
        for shown in values_of(block.text):
            answer = self.answer_for(shown)
            if answer is not None:
                assert misshapen(shown, answer) == [], f"line {block.line}"
                continue
            method, path = ("PUT", "/keys") if "PUT" in block.sections[1] else block.sections[0].split()[:2]
            sent = json.loads(self.real(json.dumps(shown)))
            reply = self.client.request(method, path, json=sent)
            assert reply.status_code == 200, f"line {block.line}: {method} {path} {shown}: {reply.text}"
            self.last = reply.json()

    def answer_for(self, shown: dict[str, Any]) -> Any:
        """The answer that a value of a page shows; `None` for one that is a request."""
        if "error" in shown:
            return self.client.post("/search", json={"text": "x", "k": 0}).json()
        if "index" in shown:
            return self.client.get("/info").json()
        if "rank" in shown:
            return self.last["hits"][0]
        if "num_missing" in shown:
            return next(facet for facet in self.last["facets"] if facet["field"] == shown["field"])
        if "structure" in shown:
            return self.client.post("/search", json={"parts": PARTS, "explain": True}).json()["explanation"]
        if "query_modality" in shown:
            return self.client.post("/search", json={"text": "a red mug", "within": ["sku-1"]}).json()
        if shown.keys() & {"outcomes", "answers", "model_fingerprint"}:
            return self.last
        return None

    def python(self, blocks: list[Block]) -> None:
        """Runs the blocks of a page one after the other, as a session would."""
        names: dict[str, Any] = {"__name__": "page"}
        try:
            with chdir(self.folder):
                for block in blocks:
                    exec(compile("\n" * block.line + self.real(block.text), "page", "exec"), names)
        finally:
            if "client" in names:
                names["client"].close()


@pytest.fixture
def reader(service: Reader) -> Reader:
    """Begins with the keys that the pages name, whatever an example before has deleted."""
    mug = {"price": 3, "brand": "acme", "sold": False, "maker": {"brand": "acme"}, "size": {"width": 40}}
    red, blue = as_base64(png()), as_base64(png((0, 0, 250)))
    keys = [
        {"key": "sku-1", "text": "a red mug", "image": red, "pools": ["shop", "pages"], "metadata": mug},
        {"key": "sku-2", "text": "a blue mug", "image": blue, "pools": ["shop"], "metadata": mug | {"price": 15}},
        {"key": "sku-7", "text": "a striped dress", "pools": ["shop"], "metadata": mug | {"brand": "other"}},
    ]
    service.client.put("/keys", json={"keys": keys, "atomic": True}).raise_for_status()
    return service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    encoder = FakeEncoder()
    folder = tmp_path_factory.mktemp("documented")
    (folder / "photo.jpg").write_bytes(jpeg())
    rows = [json.dumps({"key": f"row-{n}", "text": f"row number {n}"}) for n in range(3)]
    (folder / "keys.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with FaissIndex.open(build_real_index(folder / "built", encoder, [stored("first", Item(text="a key"))])) as index:
        settings = make_settings(writable=True, query_log=folder / "queries")
        app = create_app(settings, encoder=encoder, index=index, rerankers=[FakeScorer("mini")])
        with running(app) as client:
            yield Reader(client, folder)


def test_every_example_of_the_api_is_answered_as_it_shows(reader: Reader) -> None:
    num_run = 0
    for block in blocks_of("api.md"):
        if block.language == "console":
            num_run += reader.console(block)
        else:
            assert block.language == "json", f"line {block.line}: {block.language!r} is not run"
            reader.values(block)
    assert num_run >= 18


def test_the_request_of_the_page_on_other_clients_is_answered(reader: Reader) -> None:
    assert sum(reader.console(block) for block in blocks_of("clients.md") if block.language == "console") >= 1


def test_the_examples_of_our_client_run(reader: Reader) -> None:
    blocks = blocks_of("client.md")
    assert {block.language for block in blocks} == {"python"}
    reader.python(blocks)


@pytest.mark.parametrize(
    ("shown", "came", "is_alike"),
    [
        ({"a": 1}, {"a": 2.5, "b": 0}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": "x"}, {"a": 1}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}, {}]}, True),
        ({"a": [{"b": 1}]}, {"a": []}, False),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, False),
        ({"metadata": {"mine": 1}}, {"metadata": {"yours": 1}}, True),
    ],
)
def test_shapes_are_told_apart(shown: Any, came: Any, is_alike: bool) -> None:
    assert (misshapen(shown, came) == []) is is_alike
