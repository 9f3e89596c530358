"""`anykey-bench`: draws and makes datasets, and measures a running service with them."""

import sys

from anykey.program.exits import quiet_when_interrupted


@quiet_when_interrupted("anykey-bench")
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.benchmark.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
