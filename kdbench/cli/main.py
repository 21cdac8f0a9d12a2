"""The console script `kdbench`: it registers the commands and reports errors of the user in one line."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from kdbench.cli import cache, machines, methods, publish, results, run, status, submissions, tune
from kdbench.cli.text.urls import urls_shown
from kdbench.disk import explain
from kdbench.errors import UserError, plain
from kdbench.version import __version__

INTERRUPTED = 130  # the code that typer returns after Ctrl-C, as shells do


app = typer.Typer(
    help="kdbench: a reproducible benchmark of knowledge distillation for image classification.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the console script. An error of the user is reported in one line, with exit code 2 unless the error has a
    code of its own; Ctrl-C gives exit code 130."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that a log file shows progress at once
    with urls_shown():
        _main()


def _main() -> NoReturn:
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(explain(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's usage errors
            raise
        _fail(error.format_message())
    if code == INTERRUPTED:
        print("\ninterrupted; the same command continues where it was stopped", file=sys.stderr)
    sys.exit(code)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"kdbench: {plain(message)}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kdbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


for commands in (run, tune, status, results, submissions, publish, machines, methods):
    for name, command in commands.COMMANDS.items():
        app.command(name=name)(command)
app.add_typer(cache.cache_commands, name="cache")
app.add_typer(submissions.results_commands, name="results")


if __name__ == "__main__":
    main()
