"""`check`: hold an entry, one's own or the package's, to the contract of its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import ModuleType


def check(
    file: Annotated[str, typer.Argument(help="A file such as my_mixer.py, or an entry's name.", metavar="FILE")],
) -> None:
    """Run the contract test of its folder on a mixer, position, mlp, method, precision or instruction reader.

    Exit 1 if it breaks any of it.
    """
    entry = _load(file)
    failed = 0
    for name, error in _checks_of(entry, file).check(entry):
        failed += error is not None
        typer.echo(f"{'✗' if error else '✓'} {name}{f': {error}' if error else ''}")
    if failed:
        raise typer.Exit(1)


def _kinds() -> list[str]:
    """Return the kinds whose folders have checks."""
    from efficientllm import catalog

    return [kind for kind, folder in catalog.FOLDERS.items() if (catalog.PACKAGE / folder / "_checks.py").exists()]


def _load(file: str) -> Any:
    """Return the entry of a file, or of a name that any folder with checks holds."""
    from efficientllm import catalog, registry
    from efficientllm.errors import UnknownNameError

    named = {name: kind for kind in reversed(_kinds()) for name in catalog.names(kind)}
    if file in named:
        return registry.load(named[file], file)
    if catalog.looks_like_path(file):
        return registry.load("method", file)  # of all kinds, what a path can be: also an adapter's configuration
    raise UnknownNameError("entry", file, named)


def _checks_of(entry: Any, file: str) -> ModuleType:
    """Return the checks that stand beside the contract of the entry's type."""
    import importlib
    import importlib.util

    from efficientllm.errors import UserError

    for base in type(entry).__mro__:
        folder = base.__module__.rpartition(".")[0]
        if folder.startswith("efficientllm.") and importlib.util.find_spec(f"{folder}._checks"):
            return importlib.import_module(f"{folder}._checks")
    raise UserError(
        f"ENTRY of {file} is a {type(entry).__name__}, for which there are no checks. "
        f"There are for: {', '.join(_kinds())}. End the file as the entries of these folders do."
    )


ENTRY = check
