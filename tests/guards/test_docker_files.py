"""What the image is made of, and what the compose file hands on, are all that there is: nothing new was forgotten."""

from typing import Any

import pytest
import yaml

from anykey.service.settings import ServiceSettings
from tests.guards.checkout import ROOT

# Those that say where things are in the container, which the image or the compose file decide.
OF_THE_CONTAINER = {"config", "host", "port", "checkpoint", "index", "indexes", "release", "redis_url"}
COMPOSED: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def test_each_package_enters_the_image() -> None:
    packages = {path.name for path in (ROOT / "src/anykey").iterdir() if path.is_symlink()}
    copied = {line.split()[1] for line in lines("docker/Dockerfile") if line.startswith("COPY ")}
    admitted = {line[1:] for line in lines(".dockerignore") if line.startswith("!")}
    assert packages
    assert packages <= copied
    assert packages <= admitted


@pytest.mark.parametrize("service", ["api", "api-gpu", "api-releases"])
def test_each_setting_can_be_given_to_the_services_of_the_compose_file(service: str) -> None:
    handed_on = set(COMPOSED["services"][service]["environment"])
    assert {f"ANYKEY_{name.upper()}" for name in ServiceSettings.model_fields.keys() - OF_THE_CONTAINER} <= handed_on
    assert {name.removeprefix("ANYKEY_").lower() for name in handed_on if name.startswith("ANYKEY_")} <= set(
        ServiceSettings.model_fields
    )


def lines(path: str) -> list[str]:
    """The lines of a file of the checkout."""
    return (ROOT / path).read_text(encoding="utf-8").splitlines()
