"""What the image is made of, and what the compose file hands on, are all that there is: nothing new was forgotten."""

import re

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


def text_of(path: str) -> str:
    """The text of a file of the checkout."""
    return (ROOT / path).read_text(encoding="utf-8")
