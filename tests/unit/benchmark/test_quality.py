"""The harness scores a live endpoint's answers as trec_eval does, and fails rather than guess."""

import asyncio
import base64
import contextlib
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import SearchClient
from anykey.benchmark.dataset import Query
from anykey.benchmark.datasets.mbeir import MBeir
from anykey.benchmark.errors import DatasetError, EndpointMismatchError, RequestFailedError
from anykey.benchmark.quality import chosen_tasks, facts_of_run, is_judged, run
from anykey.benchmark.served_index import wait_for_version
from anykey.benchmark.settings import QualitySettings
from tests.local_tasks import image_of, local_tasks, pool_of
from tests.unit.benchmark.fake_service import FakeService, Hits, serving


class Oracle:
    """A service that knows the dataset: it can answer perfectly, or in an order decided by the query alone."""

    def __init__(self, root: Path) -> None:
        self.dataset = MBeir(root, "test")
        self.tasks = local_tasks(self.dataset)
        self.pools = {str(task.pool): list(pool_of(self.dataset, task).values()) for task in self.tasks.values()}
        self.union = list(self.dataset.corpus())
        self.queries: dict[tuple[str | None, str | None], Query] = {}
        for task in self.tasks.values():
            for query in self.dataset.queries(task):
                path = image_of(query.images)
                image = base64.b64encode(path.read_bytes()).decode() if path else None
                self.queries[query.text, image] = query

    def service(self, perfect: bool) -> FakeService:
        """The service, not yet serving."""
        sizes = {name: len(pool) for name, pool in self.pools.items()}
        return FakeService(lambda body: self.answer(body, perfect), sizes, len(self.union))

    def answer(self, body: Mapping[str, Any], perfect: bool) -> Hits:
        """Relevant keys first, or an order that is random and the same each time; scores come in ties."""
        query = self.queries[body.get("text"), body.get("image")]
        pool = self.pools[body["pool"]] if "pool" in body else self.union
        ranked = [entry for entry in pool if entry.key not in body.get("exclude", [])]
        random.Random(f"{query.id} {body.get('pool')}").shuffle(ranked)
        if perfect:
            ranked.sort(key=lambda entry: entry.key not in query.relevant)
        return [(entry.key, round(0.9 - (i // 3) * 0.01, 2), entry.modality) for i, entry in enumerate(ranked)]

    def texts(self, number: int) -> list[str]:
        """The texts of a task's queries."""
        return [query.text or "" for query in self.dataset.queries(self.tasks[number])]


@pytest.fixture(scope="module")
def oracle(shapesworld_dir: Path) -> Oracle:
    return Oracle(shapesworld_dir)


@pytest.fixture(scope="module")
def whole(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of perfect answers to everything, and what the command printed."""
    output = tmp_path_factory.mktemp("whole")
    with serving(oracle.service(perfect=True)) as fake, contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(settings(oracle, fake.url, output)) == 0
    (output / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
    return output


def settings(oracle: Oracle, url: str, output: Path, **changes: object) -> QualitySettings:
    """Settings of a run against the fake service."""
    given = {"dataset": oracle.dataset.root, "url": url, "output": output, "ready_timeout_s": 5, **changes}
    return QualitySettings.model_validate(given)


def results(output: Path) -> dict[str, Any]:
    """The run's results.json."""
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def test_perfect_answers_score_one_everywhere(whole: Path) -> None:
    report = results(whole)
    assert len(report["results"]) == 16
    for result in report["results"]:
        for name, value in result["metrics"].items():
            several_relevant = "task1" in result["task"]["name"] or "task3" in result["task"]["name"]
            expected = 0.5 if name == "recall@1" and several_relevant else 1.0
            assert value == pytest.approx(expected), (result["task"], name)
    assert [(mean["table"], mean["name"]) for mean in report["means"]] == [
        ("Local pool", "mean over tasks"),
        ("Global pool", "mean over tasks"),
    ]
    assert {mean["metrics"]["headline"] for mean in report["means"]} == {1.0}
    assert report["warnings"] == []


def test_shuffled_answers_score_as_trec_eval_says_from_the_run_files(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path))
    measures = {"success.1,5,10,20,50", "recall.1,5,10,20,50", "recip_rank", "ndcg_cut.10"}
    names = {"mrr": "recip_rank", "ndcg@10": "ndcg_cut_10"}
    for result in results(tmp_path)["results"]:
        task = result["task"]
        kind = {"local": "single", "global": "union"}[task["candidates"]]
        with (tmp_path / f"runs/{task['name']}_{kind}_pool_test_k50_run.txt").open(encoding="utf-8") as file:
            ranked = pytrec_eval.parse_run(file)
        (local,) = (each for each in oracle.tasks.values() if each.name == task["name"])
        qrels = {query.id: dict(query.relevant) for query in oracle.dataset.queries(local)}
        scored = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(ranked)
        assert scored.keys() == qrels.keys()
        for name, value in result["metrics"].items():
            theirs = [query[names.get(name, name.replace("@", "_"))] for query in scored.values()]
            assert value == pytest.approx(sum(theirs) / len(theirs), abs=1e-9), name


def test_the_share_of_other_modalities_is_counted_in_the_global_pool(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], cutoffs=[1, 10]))
    local, union = results(tmp_path)["results"]
    assert local["wrong"]["modality"] == {"1": 0.0, "10": 0.0}
    wrong = [
        modality != "image"
        for text in oracle.texts(0)
        for _, _, modality in oracle.answer({"text": text}, perfect=False)[:10]
    ]
    assert union["wrong"]["modality"]["10"] == pytest.approx(sum(wrong) / len(wrong))
    assert 0 < union["wrong"]["modality"]["10"] < 1


def test_every_query_arrives_with_its_text_image_and_pool(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["shapesworld_task7"], text_weight=0.25))
    queries = oracle.dataset.queries(oracle.tasks[7])
    for pool in ("mbeir_shapesworld_task7", None):
        bodies = [body for body in fake.bodies if body.get("pool") == pool]
        assert sorted(body["text"] for body in bodies) == sorted(query.text or "" for query in queries)
        images = {base64.b64decode(body["image"]) for body in bodies}
        assert images == {path.read_bytes() for query in queries if (path := image_of(query.images))}
        assert {(body["k"], body["text_weight"]) for body in bodies} == {(50, 0.25)}


def test_a_failing_query_fails_the_run_by_name_and_leaves_no_results(oracle: Oracle, tmp_path: Path) -> None:
    victim = oracle.dataset.queries(oracle.tasks[0])[2]
    assert victim.text is not None
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"]))
        assert (tmp_path / "results.json").exists()
        fake.failures[victim.text] = (500, {"error": {"type": "internal", "message": "boom"}})
        with pytest.raises(RequestFailedError, match=rf"query {victim.id} of mbeir_shapesworld_task0 .*500 internal"):
            run(settings(oracle, fake.url, tmp_path))
    assert not (tmp_path / "results.json").exists()


def test_a_query_without_hits_fails_the_run(oracle: Oracle, tmp_path: Path) -> None:
    fake = FakeService(lambda body: [], {name: len(pool) for name, pool in oracle.pools.items()}, len(oracle.union))
    with serving(fake), pytest.raises(RequestFailedError, match=r"query 10:\d+ of .*no hits"):
        run(settings(oracle, fake.url, tmp_path))


def test_an_overloaded_service_gets_every_query_again(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        fake.turned_away = 3
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"]))
    (result,) = results(tmp_path)["results"]
    assert result["metrics"]["success@1"] == 1
    assert result["serving"]["num_retries"] == 3


def test_a_missing_pool_is_named_before_the_first_query(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    del service.pools["mbeir_shapesworld_task3"]
    with serving(service) as fake, pytest.raises(EndpointMismatchError, match="no pool 'mbeir_shapesworld_task3'"):
        run(settings(oracle, fake.url, tmp_path))
    assert not service.bodies


def test_more_hits_than_the_service_gives_are_refused_before_the_first_query(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    with serving(service) as fake, pytest.raises(EndpointMismatchError, match="at most 100 hits, 500 are needed"):
        run(settings(oracle, fake.url, tmp_path, cutoffs=[500]))
    assert not service.bodies


def test_an_index_of_another_size_is_scored_with_a_warning(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    service.num_keys += 1
    service.pools["mbeir_shapesworld_task0"] -= 1
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"]))
    size = len(oracle.union)
    assert results(tmp_path)["warnings"] == [
        f"corpus: {size + 1} keys in the index, {size} in the dataset",
        "pool mbeir_shapesworld_task0: 14 keys in the index, 15 in the dataset",
    ]


def test_an_index_without_versions_is_measured(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    service.version = service.info_version = None
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"]))
    assert results(tmp_path)["service"]["index"]["version"] is None


def test_an_index_that_changes_during_the_run_fails_it(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    service.version = "8"  # GET /info said 7
    with serving(service) as fake, pytest.raises(EndpointMismatchError, match="the run began with"):
        run(settings(oracle, fake.url, tmp_path))


def test_a_key_from_outside_the_local_pool_fails_the_run(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    service.answer = lambda body: [("99:1", 0.9, "image")]
    with serving(service) as fake, pytest.raises(EndpointMismatchError, match="key '99:1' is not in pool"):
        run(settings(oracle, fake.url, tmp_path))


def test_the_reference_image_is_excluded_only_when_wanted(oracle: Oracle, tmp_path: Path) -> None:
    task = oracle.tasks[7]
    own = {image: entry.key for entry in oracle.pools[str(task.pool)] for image in entry.images}
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["7"], pools=["local"], exclude_reference=True))
        excluded = [body["exclude"] for body in fake.bodies]
        fake.bodies.clear()
        run(settings(oracle, fake.url, tmp_path, tasks=["7"], pools=["local"]))
    assert sorted(excluded) == sorted([own[query.images[0]]] for query in oracle.dataset.queries(task))
    assert not any("exclude" in body for body in fake.bodies)


PROMPT = "Find a description of this drawing."


@pytest.mark.parametrize(
    ("policy", "texts", "fields"),
    [
        ("none", {None}, {None}),
        ("text", {None}, {None}),  # an image stays an image
        ("all", {PROMPT}, {None}),  # it becomes image and text: the prompt alone
        ("field", {None}, {PROMPT}),
    ],
)
def test_instructions_of_image_queries_go_where_they_are_wanted(
    oracle: Oracle, tmp_path: Path, policy: str, texts: set[str | None], fields: set[str | None]
) -> None:
    service = oracle.service(perfect=True)
    pool = oracle.pools["mbeir_shapesworld_task3"]
    service.answer = lambda body: [(pool[0].key, 0.5, "text")]
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["3"], pools=["local"], instructions=policy))
    assert {body.get("text") for body in service.bodies} == texts
    assert {body.get("instruction") for body in service.bodies} == fields


@pytest.mark.parametrize("policy", ["text", "all"])
def test_instructions_stand_before_the_query_text(oracle: Oracle, tmp_path: Path, policy: str) -> None:
    service = oracle.service(perfect=True)
    pool = oracle.pools["mbeir_shapesworld_task0"]
    service.answer = lambda body: [(pool[0].key, 0.5, "image")]
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"], instructions=policy))
    prompt = "Find the drawing that fits this description."
    assert {body["text"] for body in service.bodies} == {f"{prompt} {text}" for text in oracle.texts(0)}


def test_exact_and_approximate_search_are_measured_in_one_run(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    perfect = service.answer

    def answer(body: Mapping[str, Any]) -> Hits:
        """The index loses the best key."""
        return perfect(body) if body.get("exact") else perfect(body)[1:]

    service.answer = answer
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"], search=["approximate", "exact"]))
    approximate, exact = results(tmp_path)["results"]
    assert (approximate["exact"], approximate["metrics"]["success@1"]) == (False, 0.0)
    assert (exact["exact"], exact["metrics"]["success@1"]) == (True, 1.0)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Local pool, every key compared" in page


def test_a_stopped_run_goes_on_where_it_was(oracle: Oracle, tmp_path: Path) -> None:
    texts = oracle.texts(0)
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path / "whole", tasks=["0"]))
        fake.bodies.clear()
        fake.failures[texts[2]] = (500, {"error": {"type": "internal", "message": "boom"}})
        with pytest.raises(RequestFailedError):
            run(settings(oracle, fake.url, tmp_path / "part", tasks=["0"], concurrency=1))
        del fake.failures[texts[2]]
        with (tmp_path / "part/answers/mbeir_shapesworld_task0_single_pool_test_k50.jsonl").open("ab") as page:
            page.write(b'{"query": "10:3", "hits": [["10:')  # what a kill leaves
        run(settings(oracle, fake.url, tmp_path / "part", tasks=["0"]))
    asked = [body["text"] for body in fake.bodies if "pool" in body]
    assert sorted(asked) == sorted([*texts, texts[2]]), "only what had no answer was asked for again"
    whole, part = results(tmp_path / "whole"), results(tmp_path / "part")
    for one, other in zip(whole["results"], part["results"], strict=True):
        assert (one["metrics"], one["ranks"]) == (other["metrics"], other["ranks"])


def test_answers_that_cannot_be_read_are_not_taken_for_none(oracle: Oracle, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"]))
        (tmp_path / "results.json").unlink()
        (answers / "run.json").unlink()
        (answers / "run.json").mkdir()
        before = {path.name: path.read_bytes() for path in answers.glob("*.jsonl")}
        with pytest.raises(IsADirectoryError):
            run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"]))
    assert before
    assert {path.name: path.read_bytes() for path in answers.glob("*.jsonl")} == before


def test_answers_of_another_run_are_not_taken_over(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    with serving(service) as fake:

        def asked(is_ended: bool, text_weight: float | None = None) -> int:
            """How many queries a run sends after one that has ended, or was stopped before its report."""
            if not is_ended:
                (tmp_path / "results.json").unlink()
            fake.bodies.clear()
            run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"], text_weight=text_weight, worst=0))
            return len(fake.bodies)

        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"], worst=0))
        assert asked(is_ended=True) == len(oracle.texts(0))
        assert asked(is_ended=False) == 0
        assert asked(is_ended=False, text_weight=0.3) == len(oracle.texts(0))
        service.version = service.info_version = "8"
        assert asked(is_ended=False, text_weight=0.3) == len(oracle.texts(0))


def test_limit_takes_the_first_queries_and_says_so(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, limit=2, pools=["local"]))
    assert {result["num_queries"] for result in results(tmp_path)["results"]} == {2}
    assert results(tmp_path)["warnings"] == ["only the first 2 queries of each task were sent"]


@pytest.mark.parametrize(
    ("file", "extra", "said"),
    [
        (
            "query/test/mbeir_shapesworld_task0_test.jsonl",
            '{"qid": "10:999", "query_txt": "A dog."}\n',
            "query '10:999' has no judgement",
        ),
        (
            "qrels/test/mbeir_shapesworld_task0_test_qrels.txt",
            "10:999 0 10:1 1 0\n",
            "1 judged queries are not in .*999",
        ),
    ],
)
def test_queries_and_judgements_must_cover_each_other(
    oracle: Oracle, tmp_path: Path, file: str, extra: str, said: str
) -> None:
    root = tmp_path / "dataset"
    for part in ("query", "qrels", "cand_pool", "mbeir_images"):
        for path in (oracle.dataset.root / part).rglob("*.*"):
            copy = root / path.relative_to(oracle.dataset.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with (root / file).open("a", encoding="utf-8") as rows:
        rows.write(extra)
    with serving(oracle.service(perfect=True)) as fake, pytest.raises(DatasetError, match=said):
        run(settings(oracle, fake.url, tmp_path / "out", dataset=root, tasks=["0"]))
    assert not fake.bodies, "not one query was sent"


def test_a_task_is_judged_as_a_whole_or_not_at_all() -> None:
    judged, other = Query("1", "a", relevant={"k": 1}), Query("2", "b")
    assert (is_judged([judged]), is_judged([other])) == (True, False)
    with pytest.raises(DatasetError, match="1 of 2 queries have no answer, the first is 2"):
        is_judged([judged, other])


def test_brackets_in_a_path_are_printed_as_they_are(
    oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "y[/z]"
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, output, tasks=["0"], limit=2))
    said = capsys.readouterr()
    assert f"run files: {output / 'report.html'}\n" in said.out
    assert "warning: only the first 2 queries of each task were sent\n" in said.err


def test_an_unknown_task_is_refused_with_those_there_are(oracle: Oracle) -> None:
    with pytest.raises(DatasetError, match=r"no task '5', it has: shapesworld_task0, .*shapesworld_task8"):
        chosen_tasks(oracle.dataset.tasks(), ["0", "5"])
    with pytest.raises(DatasetError, match="no pools 'mixed', it has: local, global"):
        chosen_tasks(oracle.dataset.tasks(), [], ["mixed"])
    chosen = chosen_tasks(oracle.dataset.tasks(), ["8", "mbeir_shapesworld_task1"], ["global", "local"])
    assert [(task.aliases[0], task.candidates) for task in chosen] == [
        ("1", "global"),
        ("8", "global"),
        ("1", "local"),
        ("8", "local"),
    ]


def test_every_number_has_its_interval_and_the_number_of_queries(whole: Path) -> None:
    report = results(whole)
    for result in report["results"]:
        low, high = result["intervals"]["success@1"]
        assert high == 1.0
        assert low == pytest.approx(result["num_queries"] / (result["num_queries"] + 1.96**2), abs=1e-4)
    sizes = [result["num_queries"] for result in report["results"] if result["task"]["candidates"] == "local"]
    asked, own = sum(sizes), [1.96**2 / (size + 1.96**2) for size in sizes]
    low, high = report["means"][0]["intervals"]["success@1"]
    assert (low, high) == pytest.approx((1 - sum(each**2 for each in own) ** 0.5 / len(own), 1.0), abs=1e-4)
    page = (whole / "results.md").read_text(encoding="utf-8")
    reach = f"{1 - low:.3f}".removeprefix("0")
    assert f"| mean over tasks |  | {asked} | 1.0000 \u00b1{reach} |" in page  # of the headlines
    assert "\u00b1" in (whole / "printed.txt").read_text(encoding="utf-8")


def test_the_report_holds_parameters_environment_and_all_tasks(whole: Path) -> None:
    report = results(whole)
    assert report["parameters"]["cutoffs"] == [1, 5, 10, 20, 50]
    assert report["service"]["model"]["fingerprint"] == "sha256:feed"
    assert report["service"]["index"]["version"] == "7"
    assert (report["dataset"]["name"], report["dataset"]["split"]) == ("shapesworld, in M-BEIR's layout", "test")
    assert report["dataset"]["manifest"]["generator"] == "anykey-bench shapesworld"
    assert report["environment"]["python"]
    serving_numbers = report["results"][0]["serving"]
    assert serving_numbers["latency_ms"]["p50"] > 0
    assert serving_numbers["stages_ms"]["encode"]["p99"] == 2.0
    page = (whole / "results.md").read_text(encoding="utf-8")
    assert page.count("| shapesworld ") == 16
    assert page.count("| mean over tasks ") == 2
    assert "## Local pool" in page
    assert "## Global pool" in page
    assert "M-BEIR, print this as Recall@k" in page


def test_the_page_of_a_run_shows_its_worst_queries_and_goes_with_its_results(oracle: Oracle, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    victim = oracle.dataset.queries(oracle.tasks[6])[0].text
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["6"], worst=2))
        text = page.read_text(encoding="utf-8")
        assert text.count("<article") == 2 * 2
        assert text.count("<img ") >= 2 * 2, "every query of this task has an image"
        fake.failures[str(victim)] = (500, {"error": {"type": "internal", "message": "boom"}})
        with pytest.raises(RequestFailedError):
            run(settings(oracle, fake.url, tmp_path, tasks=["6"]))
    assert not page.exists()


def test_how_many_queries_a_page_shows_decides_no_answer(oracle: Oracle, tmp_path: Path) -> None:
    info = FakeService(lambda body: [], {}, 0).get("/info")[1]
    few, many = (facts_of_run(settings(oracle, "http://x", tmp_path, worst=num), info) for num in (0, 50))
    assert few == many


@pytest.mark.parametrize(
    ("bounds", "code", "said"),
    [
        (["success@1=1.0"], 0, "gate open"),
        (
            ["mbeir_shapesworld_task1 recall@1=0.6"],
            3,
            "gate closed: shapesworld 1 text -> text (local) recall@1 is 0.5",
        ),
        (["headline=1.0", "recall@1=0.99"], 3, "gate closed: Local pool, mean over tasks, recall@1 is 0.7500"),
        (["speed=1"], 2, "nothing that would be measured is called 'speed'"),
        (
            ["mbeir_shapesworld_task8 mrr=0.3"],
            2,
            "nothing that would be measured is called 'mbeir_shapesworld_task8 mrr'",
        ),
        ([], 2, "expected at_least, against or both"),
        (["speed"], 2, "expected something like success@10=0.5, got 'speed'"),
    ],
)
def test_a_gate_is_closed_by_a_number_that_is_too_low(
    oracle: Oracle, tmp_path: Path, bounds: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        paths = ["--dataset", str(oracle.dataset.root), "--url", fake.url, "--output", str(tmp_path / "out")]
        given = [part for bound in bounds for part in ("--at-least", bound)]
        assert main(["gate", *paths, "--tasks", "0,1,2,3", "--pools", "local", "--worst", "0", *given]) == code
    assert bool(fake.bodies) == (code != 2), "a gate that cannot be told open from closed takes no time"
    printed = capsys.readouterr()
    assert said in (printed.out + printed.err).replace("\n", " ")


def test_a_gate_is_closed_by_a_significant_fall(
    oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--dataset", str(oracle.dataset.root), "--pools", "local", "--worst", "0"]
    with serving(oracle.service(perfect=True)) as fake:
        assert main(["quality", *paths, "--url", fake.url, "--output", str(tmp_path / "good")]) == 0
        against = ["--against", str(tmp_path / "good" / "results.json")]
        assert main(["gate", *paths, "--url", fake.url, "--output", str(tmp_path / "again"), *against]) == 0
        fake.bodies.clear()
        others = ["--url", fake.url, "--output", str(tmp_path / "others"), *against]
        assert main(["gate", "--dataset", str(oracle.dataset.root), "--pools", "global", *others]) == 2
        assert not fake.bodies
    service = oracle.service(perfect=True)
    perfect = service.answer
    service.answer = lambda body: perfect(body)[6:]
    with serving(service) as fake:
        assert main(["gate", *paths, "--url", fake.url, "--output", str(tmp_path / "bad"), *against]) == 3
    assert "mean over tasks (local) headline fell from 1.0000 to 0.0" in capsys.readouterr().out.replace("\n", " ")


def test_scores_that_hang_on_the_order_of_ties_are_said(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    perfect = service.answer
    service.answer = lambda body: [(key, 0.5, modality) for key, _, modality in perfect(body)]
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], pools=["local"]))
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["results"][0]["metrics"]["success@5"] == 1
    (warning,) = report["warnings"]
    assert "success@5 is 1.000, and 0.000 with relevant keys behind the others of their score" in warning


def test_an_endpoint_that_serves_another_index_is_noticed(oracle: Oracle) -> None:
    async def wait(url: str, version: str) -> dict[str, Any]:
        async with SearchClient(url) as client:
            return await wait_for_version(client, version, timeout_s=0.0)

    with serving(oracle.service(perfect=True)) as fake:
        assert asyncio.run(wait(fake.url, "7"))["index"]["version"] == "7"
        with pytest.raises(EndpointMismatchError, match="still serves version 7 of its index after 0 s, not 8"):
            asyncio.run(wait(fake.url, "8"))
