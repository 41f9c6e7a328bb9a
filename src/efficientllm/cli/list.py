"""`list`: the entries of a kind, from their folder."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import AsJson


def list_entries(
    kind: Annotated[
        str, typer.Argument(help="mixers, corpora, recipes …; without it, the kinds are listed.", metavar="[KIND]")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the entries of a kind, such as mixers or recipes."""
    from efficientllm import catalog

    if kind:
        chosen = catalog.kind_of(kind)
        rows = {name: catalog.title(catalog.path_of(chosen, name)) for name in catalog.names(chosen)}
    else:
        rows = {each: ", ".join(catalog.names(each)) for each in catalog.FOLDERS}
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(rows).decode())
        return
    width = max((len(name) for name in rows), default=0)
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")


ENTRY = list_entries
