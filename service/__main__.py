"""`anykey-serve`: serves one index until SIGTERM or Ctrl-C."""

import sys

from anykey.program.exits import quiet_when_interrupted
from anykey.program.extras import brought_by


@quiet_when_interrupted("anykey-serve")
@brought_by("serve", "anykey-serve", ["fastapi", "uvicorn", "redis", "python_multipart"])
def main(argv: list[str] | None = None) -> int:
    """Runs the service.

    Args:
        argv: Arguments without the program name; `sys.argv[1:]` when absent.

    Returns:
        0 after an orderly stop; 1 when the port is taken or a part cannot be loaded; 2 for wrong settings.
    """
    from anykey.service.commands import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
