"""Libraries that only an extra of this package brings."""

from importlib import import_module


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
