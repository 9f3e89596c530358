"""`anykey-train`: pairs to a checkpoint, and what compares or joins checkpoints."""

import sys

from anykey.program.exits import quiet_when_interrupted


@quiet_when_interrupted("anykey-train")
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.training.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
