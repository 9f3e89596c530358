"""`anykey-encoder`: makes checkpoints of other people's weights, and says what an encoder is."""

import sys

from anykey.program.exits import quiet_when_interrupted


@quiet_when_interrupted("anykey-encoder")
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.encoder.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
