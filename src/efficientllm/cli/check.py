"""`check`: hold a mixer or an mlp, one's own or the package's, to the contract of its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import ModuleType


def check(
    file: Annotated[str, typer.Argument(help="A file such as my_mixer.py, or an entry's name.", metavar="FILE")],
) -> None:
    """Run the contract test of its folder on one mixer or mlp; exit 1 if it breaks any of it."""
    entry = _load(file)
    failed = 0
    for name, error in _checks_of(entry, file).check(entry):
        failed += error is not None
        typer.echo(f"{'✗' if error else '✓'} {name}{f': {error}' if error else ''}")
    if failed:
        raise typer.Exit(1)


def _load(file: str) -> Any:
    """Return the entry of a file, or of a name that any folder with checks holds."""
    from efficientllm import catalog, registry

    folders = [kind for kind, folder in catalog.FOLDERS.items() if (catalog.PACKAGE / folder / "_checks.py").exists()]
    return registry.load(next((kind for kind in folders if file in catalog.names(kind)), folders[0]), file)


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
        "End the file with `ENTRY = MixerEntry(...)` or `ENTRY = MlpEntry(...)`."
    )


ENTRY = check
