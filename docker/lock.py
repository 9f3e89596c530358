"""Writes what each image installs, to the byte: `make lock`, after a change of pyproject.toml or constraints.txt.

A line of docker/locks/TARGET.txt is a distribution with its version and the SHA-256 of the file that pip takes on this
kind of machine. The build refuses any other file (`pip install --require-hashes`).
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON_OF_IMAGES = (3, 11)
# What Python 3.11.2, which is Debian's, needs and later ones do not: redis asks for it by its marker.
ALSO = ["async-timeout"]
SERVE = ["serve", "otel", "oidc", "milvus", "st"]
COMPUTE_ON_CPU = ["cpu", "onnx", "openvino"]
TARGETS = {
    "cpu": [*SERVE, *COMPUTE_ON_CPU],
    "gpu": [*SERVE, "gpu"],
    "train-cpu": [*SERVE, *COMPUTE_ON_CPU, "train", "bench"],
    "train-gpu": [*SERVE, "gpu", "train", "bench"],
}


def locked(*wanted: str) -> list[str]:
    """What pip would install for these into an empty environment, sorted by name."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--dry-run", "--ignore-installed", "--report", "-", "--constraint", str(ROOT / "constraints.txt"), *wanted]
    report = json.loads(subprocess.run(pip, stdout=subprocess.PIPE, check=True, text=True).stdout)
    lines = []
    for distribution in report["install"]:
        name, version = distribution["metadata"]["name"], distribution["metadata"]["version"]
        hashes = distribution["download_info"].get("archive_info", {}).get("hashes")
        if hashes:  # AnyKey itself is a folder
            lines.append(f"{name}=={version} --hash=sha256:{hashes['sha256']}")
    return sorted(lines, key=str.lower)


def main() -> int:
    """Writes the file of each target; gives the exit code back."""
    if sys.version_info[:2] != PYTHON_OF_IMAGES:
        wanted = ".".join(map(str, PYTHON_OF_IMAGES))
        sys.stderr.write(f"lock.py: error: the images have Python {wanted}, this is {sys.version.split()[0]}\n")
        return 2
    for target, extras in TARGETS.items():
        write(target, f"anykey[{','.join(extras)}]", locked(f"{ROOT}[{','.join(extras)}]", *ALSO))
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    write("build", "what makes a wheel of AnyKey", locked(*build))
    return 0


def write(target: str, holds: str, lines: list[str]) -> None:
    """Writes the file of a target."""
    text = "\n".join([f"# {holds}; written by make lock", *lines, ""])
    (ROOT / f"docker/locks/{target}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
