"""`run`: measure a recipe, from where an earlier call stopped, and end with its table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results
from efficientllm.errors import Interrupted, UserError

if TYPE_CHECKING:
    from efficientllm.bench.nodes import FirstNode
    from efficientllm.bench.study import StudyRun
    from efficientllm.bench.watcher import Watcher
    from efficientllm.recipes.recipe import Recipe

#: Outcomes that make the command exit with 1: something that should have been measured was not.
_FAILED = ("crashed", "invalid")


def run(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name or a YAML file.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, such as repeats=1.", metavar="[KEY=VALUE]...")
    ] = None,
    results: Results = DEFAULT_RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials; measure nothing.")] = False,
    external: Annotated[
        Path | None, typer.Option("--external", help="A wall or BMC meter's file: lines of time,watts.", metavar="FILE")
    ] = None,
    try_anyway: Annotated[
        bool, typer.Option("--try-anyway", help="Also try trials that by prediction do not fit into the device.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put earlier results aside and start over.")] = False,
    num_nodes: Annotated[
        int, typer.Option("--nodes", help="Machines that train together; `efficientllm join` on the others.", min=1)
    ] = 1,
    rendezvous: Annotated[
        str,
        typer.Option("--rendezvous", help="With --nodes: where this one waits for the others.", metavar="HOST:PORT"),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Measure a recipe; a second call goes on where the first stopped, and measures nothing twice."""
    from efficientllm.bench.study import open_run
    from efficientllm.cli._plan import print_plan
    from efficientllm.cli._watch import JsonWatcher, RichWatcher
    from efficientllm.recipes.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    with JsonWatcher() if as_json else RichWatcher() as watcher, _nodes(num_nodes, rendezvous, watcher) as nodes:
        study_run = open_run(loaded, results, watcher, external, nodes=nodes, try_anyway=try_anyway)
        study_run.check_inputs()
        if dry_run:
            print_plan(loaded, study_run, as_json)
            return
        if fresh:
            _put_aside(study_run, watcher)
        study_run.study.check_writable()
        study_run.study.keep_recipe(loaded.text.encode())
        try:
            measurements = study_run.run()
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; what was measured is stored, the same command goes on from here") from error
    if not as_json:
        _print_results(loaded, study_run, results)
    if any(measurement.outcome in _FAILED for measurement in measurements):
        raise typer.Exit(1)


@contextmanager
def _nodes(count: int, rendezvous: str, watcher: Watcher) -> Iterator[FirstNode | None]:
    """Wait for the other machines, and send them home in the end."""
    if (count > 1) != bool(rendezvous):
        raise UserError("--nodes and --rendezvous go together: --nodes 2 --rendezvous HOST:PORT.")
    if count == 1:
        yield None
        return
    from efficientllm.bench.nodes import FirstNode

    with FirstNode(rendezvous, count) as nodes:
        watcher.note(f"waiting for {count - 1} more node(s): run `efficientllm join {rendezvous}` there")
        nodes.gather()
        yield nodes


def _put_aside(study_run: StudyRun, watcher: object) -> None:
    moved = study_run.study.archive()
    if moved is not None:
        watcher.note(f"earlier results moved to {moved}")  # type: ignore[attr-defined]


def _print_results(recipe: Recipe, study_run: StudyRun, results: Path) -> None:
    from rich.console import Console

    from efficientllm.cli._tables import write_page
    from efficientllm.report.terminal import print_table

    console = Console()
    table, page = write_page(results, recipe.name, title=recipe.title)
    print_table(table, console)
    console.print(f"\nThe same as a page: {page}", soft_wrap=True, highlight=False)


ENTRY = run
