"""`bundle`: a study with its raw series as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results, StudyName


def bundle(
    study: StudyName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    results: Results = DEFAULT_RESULTS,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Hide host, user, paths, device UUIDs, process ids, command lines.")
    ] = False,
) -> None:
    """Pack a study, raw series included, into one compressed file that `merge` takes back."""
    from efficientllm.cli._tables import read_study
    from efficientllm.store.bundle import write_bundle
    from efficientllm.store.folder import Study

    read_study(results, study)
    file = output or Path(f"{study}.efficientllm.tar.xz")
    write_bundle(Study(results, study), file, anonymous=_names_here() if anonymous else None)
    typer.echo(file)


def _names_here() -> set[str]:
    """Return by what this machine and this user may be known."""
    import getpass
    import platform
    from contextlib import suppress

    names = {platform.node(), Path.home().name}
    with suppress(OSError, KeyError):  # no such user, as in a container
        names.add(getpass.getuser())
    return names


ENTRY = bundle
