"""The command `anykey-bench fetch`: a dataset's files from where its owners publish them, and what is left to do.

What lies on Hugging Face's hub is fetched by its own library, which goes on where it was stopped, and then compared
with the hub's listing: sizes, SHA-256 of large files and Git's SHA-1 of others. What may not be fetched so, or needs
unpacking, is told step by step.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from anykey.benchmark.dataset import Hub
from anykey.benchmark.datasets import READERS
from anykey.benchmark.errors import DatasetError, DownloadError
from anykey.benchmark.settings import FetchSettings
from anykey.program.progress import progress
from anykey.program.settings import EXIT_USAGE, plain_console

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

CHUNK_BYTES = 2**20
SHOWN = 3  # names in an error


@dataclass(frozen=True)
class Listed:
    """One file as the hub lists it.

    Attributes:
        name: Its path in the repository.
        size: Its bytes.
        sha256: The SHA-256 of a large file; None for others.
        blob: Git's SHA-1 of it.
    """

    name: str
    size: int
    sha256: str | None
    blob: str

    def fault(self, folder: Path) -> str | None:
        """What is wrong with its copy in a folder; None if it is as it should be."""
        path = folder / self.name
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != self.size:
            return f"has {size} bytes instead of {self.size}"
        known = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                known.update(chunk)
        return None if known.hexdigest() == (self.sha256 or self.blob) else "has other contents"


def run(settings: FetchSettings) -> int:
    """The command: fetches what can be fetched, checks it, and prints the steps that are left.

    Returns:
        The exit code: 0 if the dataset is complete, 2 if steps are left.

    Raises:
        DatasetError: there is no such dataset.
        DownloadError: the hub does not answer or has no such files, or what came is not what it lists.
    """
    if settings.name not in READERS:
        raise DatasetError(f"there is no dataset '{settings.name}', expected one of {', '.join(READERS)}")
    card, out = READERS[settings.name].card, plain_console()
    for hub in card.hub:
        folder = settings.output / hub.folder
        commit, num_files = fetch(hub, folder)
        out.print(f"{num_files} files of {hub.repository} (commit {commit}): {folder}")
    for number, step in enumerate(card.by_hand, start=1):
        if number == 1:
            out.print(f"Left to do by hand, since the terms or the form of {settings.name} leave no other way:")
        out.print(f"  {number}. {step.replace('DIR', str(settings.output))}")
    return EXIT_USAGE if card.by_hand else 0


def fetch(hub: Hub, folder: Path) -> tuple[str, int]:
    """Fetches files from the hub, those of them that are not there yet, and compares all with its listing.

    Args:
        hub: Which files.
        folder: Where they go, by their paths in the repository.

    Returns:
        The commit that they are of, and how many they are.

    Raises:
        DownloadError: as for `run`.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    api = HfApi()
    page = f"{api.endpoint}/datasets/{hub.repository}"
    # The second class is the error of the library that speaks HTTP, which differs from version to version.
    failures: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__mro__[1])
    try:
        info = api.dataset_info(hub.repository, files_metadata=True)
        snapshot_download(
            hub.repository, repo_type="dataset", revision=info.sha, allow_patterns=list(hub.files), local_dir=folder
        )
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{page} does not exist, or is shown only to those who have accepted its terms there and given their token "
            "(hf auth login)"
        ) from error
    except failures as error:
        raise DownloadError(f"cannot fetch {page}: {_reason(error)}") from error
    found = listed_files(info)
    chosen = [file for file in found if any(fnmatchcase(file.name, pattern) for pattern in hub.files)]
    _compare(hub, folder, chosen)
    if absent := [pattern for pattern in hub.files if not any(fnmatchcase(file.name, pattern) for file in found)]:
        raise DownloadError(f"{page} has no file '{absent[0]}' any more: look there what it is called now")
    return str(info.sha), len(chosen)


def listed_files(info: "DatasetInfo") -> list[Listed]:
    """What the hub lists."""
    return [
        Listed(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or []
        if file.size is not None and file.blob_id is not None
    ]


def _compare(hub: Hub, folder: Path, files: Sequence[Listed]) -> None:
    faults = []
    with progress(plain_console(stderr=True), f"comparing {hub.repository}", len(files)) as advance:
        for file in files:
            fault = file.fault(folder)
            faults += [f"{folder / file.name} {fault}"] if fault else []
            advance()
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DownloadError(
            f"{len(faults)} of {len(files)} files are not as the hub lists them: {', '.join(faults[:SHOWN])}{more}; "
            "remove them and repeat the command"
        )


def _reason(error: Exception) -> str:
    """The first line of what an error says, which libraries like to follow with advice."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
