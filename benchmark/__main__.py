"""`anykey-bench`: draws and makes datasets, and measures a running service with them."""

import sys

from anykey.program.exits import quiet_when_interrupted
from anykey.program.extras import brought_by


@quiet_when_interrupted("anykey-bench")
@brought_by("bench", "anykey-bench", ["ir_measures", "matplotlib", "jinja2", "httptools"])
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.benchmark.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
