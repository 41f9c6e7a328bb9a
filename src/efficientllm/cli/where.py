"""`where`: the file of an entry."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.errors import UnknownNameError


def where(
    name: Annotated[str, typer.Argument(help="An entry's name, such as mla or quickstart.", metavar="NAME")],
) -> None:
    """Print the file that an entry is made of."""
    from efficientllm import catalog

    hits = [catalog.path_of(kind, name) for kind in catalog.FOLDERS if name in catalog.names(kind)]
    if not hits:
        raise UnknownNameError("entry", name, {entry for kind in catalog.FOLDERS for entry in catalog.names(kind)})
    for path in hits:
        typer.echo(path)


ENTRY = where
