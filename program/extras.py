"""Libraries that only an extra of this package brings."""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec

EXIT_MISSING = 1  # as `settings.EXIT_ENVIRONMENT`, which cannot be loaded where libraries are missing


class MissingLibraryError(ImportError):
    """A library is not installed that only an extra brings; the message says which."""


def require_library(name: str, extra: str, use: str) -> None:
    """Imports a library, or says how to install it.

    Args:
        name: What is imported.
        extra: The extra of `anykey` that brings it.
        use: What needs it, for the message.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import_module(name)
    except ImportError as error:
        raise MissingLibraryError(f"{use} needs the library {name}: pip install 'anykey[{extra}]'") from error


def brought_by(extra: str, prog: str, libraries: Sequence[str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Makes `main` of a program that an extra brings say so at once where that extra is not installed.

    Args:
        extra: The extra of `anykey`.
        prog: Program name, as a person types it.
        libraries: What it brings and the program cannot do without, if only at its end. They are not loaded.

    Returns:
        What makes such a function of `main(argv)`.
    """

    def around(main: Callable[..., int]) -> Callable[..., int]:
        @wraps(main)
        def run(argv: list[str] | None = None) -> int:
            missing = next((library for library in libraries if find_spec(library) is None), None)
            if missing is None:
                return main(argv)
            needs = f"needs the library {missing}: pip install 'anykey[{extra}]'"
            sys.stderr.write(f"{prog}: error: {prog} {needs}\n")
            return EXIT_MISSING

        return run

    return around
