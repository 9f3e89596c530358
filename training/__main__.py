"""`anykey-train`: pairs to a checkpoint, and what compares or joins checkpoints."""

import sys

from anykey.program.exits import quiet_when_interrupted
from anykey.program.extras import brought_by


@quiet_when_interrupted("anykey-train")
@brought_by("train", "anykey-train", ["tensorboard", "matplotlib", "ir_measures"])
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    from anykey.training.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
