"""What the image is made of, and what the compose file hands on, are all that there is: nothing new was forgotten."""

import re
import tomllib
from collections.abc import Iterator

import pytest

from anykey.service.settings import ServiceSettings
from tests.guards.checkout import ROOT

# Those that say where things are in the container, which the image or the compose file decide.
OF_THE_CONTAINER = {
    "config",
    "host",
    "port",
    "checkpoint",
    "index",
    "indexes",
    "release",
    "redis_url",
    "allow_anonymous",
    "metrics_host",
    "metrics_port",
}


def test_each_package_enters_the_image() -> None:
    packages = {path.name for path in (ROOT / "src/anykey").iterdir() if path.is_symlink()}
    copied = set(re.findall(r"^COPY (\w+) ", text_of("docker/Dockerfile"), re.MULTILINE))
    admitted = set(re.findall(r"^!(\w+)$", text_of(".dockerignore"), re.MULTILINE))
    assert packages
    assert packages <= copied
    assert packages <= admitted


def test_each_setting_can_be_given_to_the_services_of_the_compose_file() -> None:
    handed_on = re.findall(r"^    ANYKEY_(\w+):$", text_of("docker-compose.yml"), re.MULTILINE)
    settings = ServiceSettings.model_fields.keys() - OF_THE_CONTAINER
    assert {name.lower() for name in handed_on} == settings, "docker-compose.yml lists each, under `environment`"
    assert handed_on == sorted(handed_on)


@pytest.mark.parametrize("target", ["cpu", "gpu", "train-cpu", "train-gpu"])
def test_images_install_what_the_project_names_in_the_versions_that_are_tested(target: str) -> None:
    header, *lines = text_of(f"docker/locks/{target}.txt").splitlines()
    locked = dict(re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups() for line in lines)  # type: ignore[union-attr, misc]
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", text_of("constraints.txt"), re.MULTILINE))
    versions = {one_name(name): version for name, version in locked.items()}
    extras = re.fullmatch(r"# anykey\[(.+)\]; written by make lock", header)
    assert extras is not None
    needed = {one_name(re.split(r"[\[<>=~! ]", line, maxsplit=1)[0]) for line in declared(extras[1].split(","))}
    assert needed <= versions.keys(), "run `make lock`"
    differ = {name for name, version in tested.items() if versions.get(one_name(name), version) != version}
    assert differ == set(), "run `make lock`"


def declared(extras: list[str]) -> Iterator[str]:
    """What the project needs with these extras, and with those that they name."""
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    for line in (
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ):
        own = re.fullmatch(r"anykey\[(.+)\]", line)
        yield from [line] if own is None else declared(own[1].split(","))


def one_name(distribution: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def text_of(path: str) -> str:
    """The text of a file of the checkout."""
    return (ROOT / path).read_text(encoding="utf-8")
