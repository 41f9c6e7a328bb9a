"""The entry of the command line: finds the commands in this folder and turns errors into one line."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from efficientllm import __version__
from efficientllm.errors import EfficientLLMError, Interrupted, UserError

_USE = 2
_INTERRUPTED = 130


def build_app() -> typer.Typer:
    """Return the command line with one subcommand for each file of this folder that ends with `ENTRY`."""
    app = typer.Typer(
        name="efficientllm",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        entry = getattr(importlib.import_module(f"efficientllm.cli.{path.stem}"), "ENTRY", None)
        if entry is not None:
            app.command(path.stem.rstrip("_"))(entry)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"efficientllm {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure, on your own hardware, which efficiency technique of language models to use."""


def main() -> None:
    """Run the command line; exit 0 done, 1 something measured failed, 2 wrong use, 130 interrupted."""
    # Records live to the end: to look through all of them for garbage, over and over, took a sixth of a report.
    gc.set_threshold(100_000, 50, 1000)
    try:
        build_app()()
    except UserError as error:
        _last_words(f"error: {error}", _USE)
    except Interrupted as stopped:
        _last_words(str(stopped), _INTERRUPTED)
    except EfficientLLMError as error:
        _last_words(f"error: {error}", 1)
    except BrokenPipeError:  # the reader of our output has gone (`… | head`): nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _last_words(text: str, code: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
