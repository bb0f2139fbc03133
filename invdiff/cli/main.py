"""The command `invdiff`: its subcommands wired together, every error brought to one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..allocator import keep_freed
from ..errors import InvdiffError
from .adapt import adapt_command
from .bench import bench_command
from .degrade import degrade_command
from .demo import demo_command
from .doctor import doctor_command
from .listings import methods_command, tasks_command
from .priors import priors_app
from .report import report_command
from .restore import restore_command
from .sample import sample_command
from .train import train_command
from .tune import tune_command

INTERRUPTED = 130

app = typer.Typer(
    name="invdiff",
    help="Restore images by sampling from the posterior of a diffusion prior.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, a quarter of a second sooner
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"invdiff {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


COMMANDS: dict[str, Callable[..., None]] = {
    "restore": restore_command,
    "degrade": degrade_command,
    "sample": sample_command,
    "train": train_command,
    "adapt": adapt_command,
    "tune": tune_command,
    "bench": bench_command,
    "report": report_command,
    "demo": demo_command,
    "doctor": doctor_command,
    "tasks": tasks_command,
    "methods": methods_command,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(priors_app, name="priors")


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 something failed on the way, 2 a wrong request, 130 Ctrl-C."""
    warnings.formatwarning = _one_line
    keep_freed()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of the command line `invdiff ARGUMENTS...`; an error is one line on standard error."""
    try:
        code = app(arguments, prog_name="invdiff", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            return _fail("stopped", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        message = error.format_message().strip()
        stop = "" if message.endswith((".", "?", "!")) else "."
        return _fail(f"{message}{stop} See invdiff --help.", error.exit_code)
    except InvdiffError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that went away
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", INTERRUPTED)


def _one_line(message: Warning | str, *rest: object, **others: object) -> str:
    return f"invdiff: warning: {' '.join(str(message).split())}\n"


def _fail(message: str, code: int) -> int:
    print("invdiff:", " ".join(message.split()), file=sys.stderr)
    return code
