"""Deletes of an installed torch what a machine without a GPU never loads, and says how much that is.

The registry's torch is built for GPUs of NVIDIA. It cannot be imported without the libraries that it is linked to,
which therefore stay. Those that it opens by itself once there is a GPU, its compiler for kernels (Triton) and its
headers go: `python leave_out.py`, with the Python that has them.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ONLY_FOR_GPUS = ["triton", "torch/include"]


def linked(packages_dir: Path) -> set[Path]:
    """The files that torch's libraries cannot be loaded without."""
    libraries = [str(path) for path in packages_dir.glob("torch/lib/*.so")]
    said = subprocess.run(["ldd", *libraries], capture_output=True, text=True, check=True).stdout
    return {Path(path).resolve() for path in re.findall(r"=> (/\S+)", said)}


def leave_out(packages_dir: Path) -> int:
    """Deletes what is not needed; gives the number of bytes back."""
    needed = linked(packages_dir)
    files = [path for name in ONLY_FOR_GPUS for path in (packages_dir / name).rglob("*") if path.is_file()]
    files += [path for path in packages_dir.glob("nvidia/**/*") if path.is_file() and path.resolve() not in needed]
    num_bytes = sum(path.stat().st_size for path in files if not path.is_symlink())
    for path in files:
        path.unlink()
    for name in ONLY_FOR_GPUS:
        shutil.rmtree(packages_dir / name, ignore_errors=True)
    return num_bytes


if __name__ == "__main__":
    sys.stdout.write(f"left out {leave_out(Path(sysconfig.get_path('purelib'))) / 1e9:.2f} GB\n")
