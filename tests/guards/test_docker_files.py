"""The image and compose files, read as text: what must be true of them on a machine without an engine.

Each rule is a function from a file's contents to complaints; the real files give none, and a broken copy gives one,
so that each rule is known to be able to fail.
"""

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted({name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]})

PYTHON_IMAGE = "python:3.11-slim-bookworm"
REDIS_IMAGE = "redis:7-bookworm"
REFUSED_KEYS = {"start_interval", "develop", "gpus", "create_host_path"}  # by older Compose releases
SETTINGS = {f"ANYKEY_{name.upper()}" for name in ServiceSettings.model_fields}
# Given by the image, where the files are mounted; a settings file would have to be mounted, too.
FIXED_BY_IMAGE = {"ANYKEY_HOST", "ANYKEY_PORT", "ANYKEY_CHECKPOINT", "ANYKEY_INDEX"}
NOT_PASSED_ON = FIXED_BY_IMAGE | {"ANYKEY_CONFIG"}


@dataclass
class Stage:
    """One stage of a Dockerfile: `FROM base AS name` and its instructions as `(word, rest)`."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all_of(self, word: str) -> list[str]:
        """What follows each instruction of this kind."""
        return [rest for instruction, rest in self.instructions if instruction == word]


def stages_of(dockerfile: str) -> dict[str, Stage]:
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for instruction in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = instruction.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(base, name)
        else:
            list(stages.values())[-1].instructions.append((word, rest))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stage and those it is built on, the last one first."""
    found = []
    while name in stages:
        found.append(stages[name])
        name = stages[name].base
    return found


def dockerfile_complaints(dockerfile: str) -> list[str]:
    stages = stages_of(dockerfile)
    complaints = [f"bases on {s.base}" for s in stages.values() if s.base not in {PYTHON_IMAGE, *stages}]
    complaints += ["has a syntax line"] if re.search(r"^#\s*syntax", dockerfile, re.MULTILINE) else []
    complaints += ["has a heredoc"] if "<<" in dockerfile else []
    complaints += ["links copies"] if "--link" in dockerfile else []
    for target in ("cpu", "gpu"):
        chain = lineage(stages, target)
        complaints += _target_complaints(target, chain) if chain else [f"{target} is missing"]
    return complaints


def _target_complaints(target: str, chain: list[Stage]) -> list[str]:
    complaints = []
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", (chain[0].all_of("USER") or [""])[-1]):
        complaints.append(f"{target} may run as root")
    for word in ("HEALTHCHECK", "CMD"):
        if not any(stage.all_of(word) for stage in chain):
            complaints.append(f"{target} has no {word}")
    below = [source for stage in chain[1:] for rest in stage.all_of("COPY") for source in rest.split()[:-1]]
    if set(below) & {*PACKAGES, ".", "pyproject.toml"} or "--from=wheel" in below:
        complaints.append(f"{target} installs its dependencies after the code")
    return complaints


def compose_complaints(compose: dict[str, Any]) -> list[str]:
    services = compose["services"]
    complaints = [f"uses {key}" for key in sorted(REFUSED_KEYS & set(_keys(compose)))]
    complaints += ["has a top-level name"] if "name" in compose else []
    complaints += [f"lacks {name}" for name in ("api", "api-gpu", "redis") if name not in services]
    for name, service in services.items():
        complaints += [f"{name}: {complaint}" for complaint in _service_complaints(service)]
    return complaints


def _service_complaints(service: dict[str, Any]) -> Iterator[str]:
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
        yield "is not read-only or keeps capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "may gain privileges"
    if not service.get("restart"):
        yield "has no restart policy"
    if any(not str(port).startswith("127.0.0.1:") for port in service.get("ports", [])):
        yield "is published beyond this machine"
    if any(not volume.get("read_only") for volume in service.get("volumes", [])):
        yield "mounts a writable volume"
    yield from (f"{name} is no setting" for name in _anykey(service.get("environment", {})) - SETTINGS)


def _keys(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _keys(child)


def _anykey(names: Any) -> set[str]:
    return {name for name in names if name.startswith("ANYKEY_")}


def _compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE)
    return parsed


def test_dockerfile_keeps_every_rule() -> None:
    assert dockerfile_complaints(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        (f"FROM {PYTHON_IMAGE}", "FROM python:latest", "bases on python:latest"),
        ("FROM dependencies-gpu AS gpu", "FROM dependencies-gpu AS cuda", "gpu is missing"),
        ("# Two images", "# syntax=docker/dockerfile:1\n# Two images", "has a syntax line"),
        ("CMD [", "RUN cat <<END\nEND\nCMD [", "has a heredoc"),
        ("COPY --from", "COPY --link --from", "links copies"),
        ("USER 10001:10001", "USER root", "cpu may run as root"),
        ("USER 10001:10001", "", "gpu may run as root"),
        ("HEALTHCHECK", "LABEL", "cpu has no HEALTHCHECK"),
        ('CMD ["anykey-serve"]', "", "cpu has no CMD"),
        (
            "COPY constraints.txt",
            "COPY . /source\nCOPY constraints.txt",
            "cpu installs its dependencies after the code",
        ),
    ],
)
def test_dockerfile_that_breaks_a_rule_is_complained_about(good: str, bad: str, complaint: str) -> None:
    assert good in DOCKERFILE
    assert complaint in dockerfile_complaints(DOCKERFILE.replace(good, bad))


def test_compose_file_keeps_every_rule() -> None:
    assert compose_complaints(_compose()) == []


@pytest.mark.parametrize(
    ("service", "change", "complaint"),
    [
        ("api", {"gpus": "all"}, "uses gpus"),
        ("api", {"healthcheck": {"start_interval": "1s"}}, "uses start_interval"),
        ("redis", {"ports": ["6379:6379"]}, "redis: is published beyond this machine"),
        ("api", {"read_only": False}, "api: is not read-only or keeps capabilities"),
        ("redis", {"cap_drop": []}, "redis: is not read-only or keeps capabilities"),
        ("api", {"security_opt": []}, "api: may gain privileges"),
        ("redis", {"restart": None}, "redis: has no restart policy"),
        ("api", {"volumes": [{"type": "bind", "source": "a", "target": "/index"}]}, "api: mounts a writable volume"),
        ("api", {"environment": {"ANYKEY_PORTT": 1}}, "api: ANYKEY_PORTT is no setting"),
    ],
)
def test_compose_file_that_breaks_a_rule_is_complained_about(
    service: str, change: dict[str, Any], complaint: str
) -> None:
    compose = _compose()
    compose["services"][service].update(change)
    assert complaint in compose_complaints(compose)


def test_every_setting_can_be_given_to_the_container() -> None:
    for name in ("api", "api-gpu"):
        assert _anykey(_compose()["services"][name]["environment"]) == SETTINGS - NOT_PASSED_ON


def test_image_fixes_only_what_are_settings() -> None:
    environment = " ".join(stages_of(DOCKERFILE)["runtime"].all_of("ENV"))
    assert set(re.findall(r"\bANYKEY_\w+", environment)) == FIXED_BY_IMAGE <= SETTINGS


def test_mounts_default_to_the_paths_that_the_service_defaults_to() -> None:
    defaults = {name: ServiceSettings.model_fields[name].default for name in ("checkpoint", "index")}
    expected = {f"/{name}": f"${{{name.upper()}:-./{path}}}" for name, path in defaults.items()}
    for name in ("api", "api-gpu"):
        volumes = _compose()["services"][name]["volumes"]
        assert {volume["target"]: volume["source"] for volume in volumes} == expected


def test_each_service_is_built_from_its_target() -> None:
    services = _compose()["services"]
    assert [services[name]["build"]["target"] for name in ("api", "api-gpu")] == ["cpu", "gpu"]
    assert services["api-gpu"]["profiles"] == ["gpu"]


def test_redis_is_a_bounded_cache_that_nobody_outside_reaches() -> None:
    redis = _compose()["services"]["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert redis["image"] == REDIS_IMAGE
    assert options["--maxmemory-policy"] == "allkeys-lru"
    assert options["--maxmemory"].endswith("mb")
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    assert "ports" not in redis
    assert [_compose()["networks"][name]["internal"] for name in redis["networks"]] == [True]


def test_the_service_is_not_killed_before_it_has_drained() -> None:
    drain_s = ServiceSettings.model_fields["drain_ms"].default / 1000
    for name in ("api", "api-gpu"):
        grace = _compose()["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > 2 * drain_s  # open requests, then the queue


def test_build_context_holds_what_is_copied_and_nothing_else() -> None:
    copies = [rest.split()[:-1] for stage in stages_of(DOCKERFILE).values() for rest in stage.all_of("COPY")]
    sources = {source.partition("/")[0] for words in copies for source in words if "--from" not in words[0]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == sources
    assert set(PACKAGES) < sources


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_requirements_are_those_of_the_project_and_the_extras(extra: str) -> None:
    command = [sys.executable, str(ROOT / "docker/requirements.py"), str(ROOT / "pyproject.toml"), extra, "milvus"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    project = PROJECT["project"]
    optional = project["optional-dependencies"]
    assert lines == project["dependencies"] + optional[extra] + optional["milvus"]


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1), (None, 1)])
def test_health_check_passes_only_when_the_service_is_ready(status: int | None, exit_code: int) -> None:
    class Readiness(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if status and self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stays quiet."""

    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        port = server.server_address[1]
        if status is None:
            server.server_close()
        else:
            threading.Thread(target=server.handle_request, daemon=True).start()
        assert health({"ANYKEY_PORT": str(port)}) == exit_code


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "tcp://10.96.0.12:8000", "ANYKEY_HOST": ""}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "", "ANYKEY_HOST": "0.0.0.0"}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "9000", "ANYKEY_HOST": "[::]"}, ("127.0.0.1", 9000)),
        ({"ANYKEY_PORT": "9000", "ANYKEY_HOST": "::1"}, ("::1", 9000)),
    ],
    ids=str,
)
def test_health_check_asks_where_the_service_listens(environment: dict[str, str], address: tuple[str, int]) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docker')!r}); import healthcheck; print(healthcheck.address())"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment_with(environment), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == str(address)


def environment_with(settings: dict[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("ANYKEY_")}, **settings}


def health(settings: dict[str, str]) -> int:
    """Exit code of the health check of a container with these settings."""
    command = [sys.executable, str(ROOT / "docker/healthcheck.py")]
    return subprocess.run(command, env=environment_with(settings), check=False).returncode
