"""The harness scores a live endpoint's answers as trec_eval does, and fails rather than guess."""

import base64
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval

from anykey.benchmark.errors import DatasetError, EndpointMismatchError, RequestFailedError
from anykey.benchmark.mbeir import Candidate, Dataset, Query, Task
from anykey.benchmark.quality import chosen_tasks, run
from anykey.benchmark.settings import QualitySettings
from tests.unit.benchmark.fake_service import FakeService, Hits, serving


class Oracle:
    """A service that knows the dataset: it can answer perfectly, or in an order decided by the query alone."""

    def __init__(self, root: Path) -> None:
        self.dataset = Dataset(root)
        self.tasks = self.dataset.tasks()
        self.pools: dict[str, list[Candidate]] = {task.pool: self.dataset.pool(task) for task in self.tasks}
        self.union = [candidate for pool in self.pools.values() for candidate in pool]
        self.queries: dict[tuple[str | None, str | None], list[tuple[Task, Query]]] = {}
        for task in self.tasks:
            for query in self.dataset.queries(task):
                image = base64.b64encode(query.image.read_bytes()).decode() if query.image else None
                self.queries.setdefault((query.text, image), []).append((task, query))
        self.qrels = {task.name: self.dataset.qrels(task) for task in self.tasks}

    def service(self, perfect: bool) -> FakeService:
        """The service, not yet serving."""
        sizes = {name: len(pool) for name, pool in self.pools.items()}
        return FakeService(lambda body: self.answer(body, perfect), sizes, len(self.union))

    def answer(self, body: Mapping[str, Any], perfect: bool) -> Hits:
        """Relevant keys first, or an order that is random and the same each time; scores come in ties."""
        ((task, query),) = self.queries[body.get("text"), body.get("image")]
        pool = self.pools[body["pool"]] if "pool" in body else self.union
        ranked = [candidate for candidate in pool if candidate.did not in body.get("exclude", [])]
        random.Random(f"{query.qid} {body.get('pool')}").shuffle(ranked)
        if perfect:
            relevant = self.qrels[task.name][query.qid]
            ranked.sort(key=lambda candidate: candidate.did not in relevant)
        return [(c.did, round(0.9 - (i // 3) * 0.01, 2), c.modality) for i, c in enumerate(ranked)]


@pytest.fixture(scope="module")
def oracle(shapesworld_dir: Path) -> Oracle:
    return Oracle(shapesworld_dir)


def settings(oracle: Oracle, url: str, output: Path, **changes: object) -> QualitySettings:
    """Settings of a run against the fake service."""
    given = {"dataset": oracle.dataset.root, "url": url, "output": output, "ready_timeout_s": 5, **changes}
    return QualitySettings.model_validate(given)


def results(output: Path) -> dict[str, Any]:
    """The run's results.json."""
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def test_perfect_answers_score_one_everywhere(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        assert run(settings(oracle, fake.url, tmp_path)) == 0
    report = results(tmp_path)
    assert len(report["results"]) == 16
    for result in report["results"]:
        for name, value in result["metrics"].items():
            several_relevant = result["task"]["number"] in (1, 3)
            expected = 0.5 if name == "recall@1" and several_relevant else 1.0
            assert value == pytest.approx(expected), (result["task"], name)
    assert report["averages"]["global"]["over_tasks"]["success@1"] == 1
    assert report["warnings"] == []


def test_shuffled_answers_score_as_trec_eval_says_from_the_run_files(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path))
    measures = {"success.1,5,10,50", "recall.1,5,10,50", "recip_rank", "ndcg_cut.10"}
    names = {"mrr": "recip_rank", "ndcg@10": "ndcg_cut_10"}
    for result in results(tmp_path)["results"]:
        task, kind = result["task"], {"local": "single", "global": "union"}[result["pool"]]
        with (tmp_path / f"runs/{task['name']}_{kind}_pool_test_k50_run.txt").open(encoding="utf-8") as file:
            ranked = pytrec_eval.parse_run(file)
        qrels = oracle.qrels[task["name"]]
        scored = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(ranked)
        assert scored.keys() == qrels.keys()
        for name, value in result["metrics"].items():
            theirs = [query[names.get(name, name.replace("@", "_"))] for query in scored.values()]
            assert value == pytest.approx(sum(theirs) / len(theirs), abs=1e-9), name


def test_the_share_of_other_modalities_is_counted_in_the_global_pool(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=False)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"], cutoffs=[1, 10]))
    local, union = results(tmp_path)["results"]
    assert local["wrong_modality"] == {"1": 0.0, "10": 0.0}
    wrong = [
        candidate[2] != "image"
        for query in oracle.dataset.queries(oracle.tasks[0])
        for candidate in oracle.answer({"text": query.text}, perfect=False)[:10]
    ]
    assert union["wrong_modality"]["10"] == pytest.approx(sum(wrong) / len(wrong))
    assert 0 < union["wrong_modality"]["10"] < 1


def test_every_query_arrives_with_its_text_image_and_pool(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["shapesworld_task7"], text_weight=0.25))
    queries = oracle.dataset.queries(oracle.tasks[6])
    for pool in ("mbeir_shapesworld_task7", None):
        bodies = [body for body in fake.bodies if body.get("pool") == pool]
        assert sorted(body["text"] for body in bodies) == sorted(query.text or "" for query in queries)
        images = {base64.b64decode(body["image"]) for body in bodies}
        assert images == {query.image.read_bytes() for query in queries if query.image}
        assert {(body["k"], body["text_weight"]) for body in bodies} == {(50, 0.25)}


def test_a_failing_query_fails_the_run_by_name_and_leaves_no_results(oracle: Oracle, tmp_path: Path) -> None:
    victim = oracle.dataset.queries(oracle.tasks[0])[2]
    assert victim.text is not None
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["0"]))
        assert (tmp_path / "results.json").exists()
        fake.failures[victim.text] = (500, {"error": {"type": "internal", "message": "boom"}})
        with pytest.raises(RequestFailedError, match=rf"query {victim.qid} of mbeir_shapesworld_task0 .*500 internal"):
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
        f"global pool: {size + 1} keys in the index, {size} in the dataset",
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
    task = oracle.tasks[6]
    own = {candidate.image: candidate.did for candidate in oracle.pools[task.pool]}
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["7"], pools=["local"], exclude_reference=True))
        excluded = [body["exclude"] for body in fake.bodies]
        fake.bodies.clear()
        run(settings(oracle, fake.url, tmp_path, tasks=["7"], pools=["local"]))
    assert sorted(excluded) == sorted([own[query.image]] for query in oracle.dataset.queries(task))
    assert not any("exclude" in body for body in fake.bodies)


def test_instructions_stand_before_the_query_text(oracle: Oracle, tmp_path: Path) -> None:
    service = oracle.service(perfect=True)
    pool = oracle.pools["mbeir_shapesworld_task3"]
    service.answer = lambda body: [(pool[0].did, 0.5, "text")]
    with serving(service) as fake:
        run(settings(oracle, fake.url, tmp_path, tasks=["3"], pools=["local"], instructions=True))
    # an image query becomes image and text: the prompt alone
    assert {body["text"] for body in service.bodies} == {"Find a description of this drawing."}


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
            "no qrels, .*999",
        ),
        ("qrels/test/mbeir_shapesworld_task0_test_qrels.txt", "10:999 0 10:1 1 0\n", "have no query, .*999"),
    ],
)
def test_queries_and_judgements_must_cover_each_other(
    oracle: Oracle, tmp_path: Path, file: str, extra: str, said: str
) -> None:
    root = tmp_path / "dataset"
    for part in ("query", "qrels", "cand_pool"):
        for path in (oracle.dataset.root / part).rglob("*.*"):
            copy = root / path.relative_to(oracle.dataset.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with (root / file).open("a", encoding="utf-8") as rows:
        rows.write(extra)
    with serving(oracle.service(perfect=True)) as fake, pytest.raises(DatasetError, match=said):
        run(settings(oracle, fake.url, tmp_path / "out", dataset=root, tasks=["0"]))


def test_brackets_in_a_path_are_printed_as_they_are(
    oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "y[/z]"
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, output, tasks=["0"], limit=2))
    said = capsys.readouterr()
    assert f"run files: {output}\n" in said.out
    assert "warning: only the first 2 queries of each task were sent\n" in said.err


def test_an_unknown_task_is_refused_with_those_there_are(oracle: Oracle) -> None:
    with pytest.raises(DatasetError, match=r"no task '5', it has: shapesworld_task0, .*shapesworld_task8"):
        chosen_tasks(oracle.tasks, ["0", "5"])
    assert [task.number for task in chosen_tasks(oracle.tasks, ["8", "mbeir_shapesworld_task1"])] == [1, 8]


def test_every_number_has_its_interval_and_the_number_of_queries(
    oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path))
    report = results(tmp_path)
    for result in report["results"]:
        low, high = result["intervals"]["success@1"]
        assert high == 1.0
        assert low == pytest.approx(result["num_queries"] / (result["num_queries"] + 1.96**2), abs=1e-4)
    sizes = [result["num_queries"] for result in report["results"] if result["pool"] == "local"]
    asked, own = sum(sizes), [1.96**2 / (size + 1.96**2) for size in sizes]
    low, high = report["averages"]["local"]["over_tasks_intervals"]["success@1"]
    assert (low, high) == pytest.approx((1 - sum(each**2 for each in own) ** 0.5 / len(own), 1.0), abs=1e-4)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    reach = f"{1 - low:.3f}".removeprefix("0")
    assert f"| mean over tasks |  | {asked} | 1.0000 \u00b1{reach} |" in page
    assert "\u00b1" in capsys.readouterr().out


def test_the_report_holds_parameters_environment_and_all_tasks(oracle: Oracle, tmp_path: Path) -> None:
    with serving(oracle.service(perfect=True)) as fake:
        run(settings(oracle, fake.url, tmp_path))
    report = results(tmp_path)
    assert report["parameters"]["cutoffs"] == [1, 5, 10, 50]
    assert report["service"]["model"]["fingerprint"] == "sha256:feed"
    assert report["service"]["index"]["version"] == "7"
    assert report["dataset"]["generator"] == "anykey-bench shapesworld"
    assert report["environment"]["python"]
    serving_numbers = report["results"][0]["serving"]
    assert serving_numbers["latency_ms"]["p50"] > 0
    assert serving_numbers["stages_ms"]["encode"]["p99"] == 2.0
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert page.count("| shapesworld ") == 16
    assert page.count("| mean over tasks ") == 2
    assert "## Local pool" in page
    assert "## Global pool" in page
    assert "M-BEIR prints this as Recall@k" in page
