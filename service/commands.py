"""The commands of `anykey-serve`."""

from anykey.program.settings import Command, CommandGroup, run_program
from anykey.service.access.api_keys import ApiKeysError
from anykey.service.access.commands import COMMANDS as KEYS_COMMANDS
from anykey.service.errors import StartupError
from anykey.service.settings import ServiceSettings


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    commands: dict[str, Command | CommandGroup] = {"serve": Command(ServiceSettings, _serve), "keys": KEYS_COMMANDS}
    return run_program("anykey-serve", commands, argv, (), (StartupError, ApiKeysError), default="serve")


def _serve(settings: ServiceSettings) -> int:
    from anykey.service.server import serve

    return serve(settings)
