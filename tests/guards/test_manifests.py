"""The Kubernetes manifests name what there is: settings, images, commands, and the folders that overlays begin with."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from anykey.service.settings import ServiceSettings
from tests.guards.checkout import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "docker/kubernetes").rglob("kustomization.yaml"))
TARGETS = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE))
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def kustomization(folder: Path) -> dict[str, Any]:
    """What a folder's kustomization.yaml says."""
    parsed: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return parsed


def objects() -> Iterator[dict[str, Any]]:
    """All objects of all folders."""
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.yaml")):
            if path.name != "kustomization.yaml":
                yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def containers() -> Iterator[dict[str, Any]]:
    """All containers of all objects."""
    for thing in objects():
        if "template" in thing.get("spec", {}):
            pod = thing["spec"]["template"]["spec"]
            yield from (*pod.get("initContainers", []), *pod["containers"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_names_all_its_files_and_folders_that_exist(folder: Path) -> None:
    named = {(folder / name).resolve() for name in kustomization(folder)["resources"]}
    own = {path.resolve() for path in folder.glob("*.yaml") if path.name != "kustomization.yaml"}
    assert own <= named
    assert all(path.exists() for path in named)


def test_settings_are_those_of_the_service() -> None:
    literals = [
        literal
        for folder in FOLDERS
        for generator in kustomization(folder).get("configMapGenerator", [])
        for literal in generator["literals"]
    ]
    literals += [variable["name"] for container in containers() for variable in container.get("env", [])]
    names = {literal.partition("=")[0] for literal in literals if literal.startswith("ANYKEY_")}
    assert "ANYKEY_RELEASE" in names
    assert {name.removeprefix("ANYKEY_").lower() for name in names} <= ServiceSettings.model_fields.keys()


def test_containers_run_our_commands_in_our_images_and_may_do_nothing_else() -> None:
    for container in containers():
        name, _, tag = container["image"].partition(":")
        assert name == "redis" or tag in TARGETS
        if name == "anykey" and "args" in container:
            assert container["args"][0] in COMMANDS
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()
