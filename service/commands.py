"""The command of `anykey-serve`."""

from anykey.program.settings import Command, run_program
from anykey.service.errors import StartupError
from anykey.service.settings import ServiceSettings


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    commands = {"serve": Command(ServiceSettings, _serve)}
    return run_program("anykey-serve", commands, argv, (), (StartupError,), default="serve")


def _serve(settings: ServiceSettings) -> int:
    from anykey.service.server import serve

    return serve(settings)
