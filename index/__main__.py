"""`anykey-index`: makes, changes and looks after indexes."""

import sys

from anykey.program.exits import quiet_when_interrupted


@quiet_when_interrupted("anykey-index")
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.index.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
