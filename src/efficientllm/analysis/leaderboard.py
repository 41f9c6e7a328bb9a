"""A study's table: sections of rows that may be compared, each cell with its evidence, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from efficientllm.analysis import notes
from efficientllm.analysis.budgets import budget_section
from efficientllm.analysis.by_text import quality_sections
from efficientllm.analysis.crossover import crossovers
from efficientllm.analysis.grid import gridded, grids
from efficientllm.analysis.group import groups, points, stages_of
from efficientllm.analysis.missing import missing_rows
from efficientllm.analysis.rank_changes import rank_change_lines, rank_changes
from efficientllm.analysis.section import section
from efficientllm.analysis.select import counts, select
from efficientllm.analysis.table import Section, StudyTable
from efficientllm.analysis.verdict import sentences
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Caution

#: What a section's codes mean; the places follow.
_MEANINGS = {
    "not_ranked": "measured with a protocol that shows coverage and is too short to rank",
    "at_floor": "quality does not clear that of token frequencies alone, so it is shown but not ranked",
    "implementation_bound": "the order by time would change if all attained the same share of the hardware's limit",
}


def study_table(
    study: str, measurements: Sequence[Measurement], title: str = "", *, detail: bool = False
) -> StudyTable:
    """Make a study's table from its records.

    Sections stand in the order of the recipe's stages and of the windows' coordinates, one for each machine; in each
    the baseline comes first, the others follow in the order in which they were first started, and what gave no figure
    stands at the bottom with its reason.

    Args:
        study: its name.
        measurements: all records of the study, in any state and order.
        title: one line for people.
        detail: whether the columns are all metrics, not the one of each kind that heads a table.
    """
    selection = select(measurements)
    kept = [record for record in selection.records if counts(record)]
    sections: list[Section] = []
    cautions: list[Caution] = []
    parted, stages = groups(selection.records), stages_of(selection.records)
    for group in parted:
        missing = missing_rows(group, parted, stages)
        for point in points(group):
            made, found = section(group, point, detail=detail)
            sections.append(replace(made, rows=(*made.rows, *missing)))
            cautions += found
    points_marked = gridded(sections)
    table = StudyTable(
        study=study,
        title=title,
        sections=points_marked,
        grids=() if detail else grids(points_marked, kept),
        crossovers=() if detail else crossovers(points_marked),
        budgets=() if detail else tuple(equal for group in parted if (equal := budget_section(group)) is not None),
        quality=() if detail else tuple(made for group in parted for made in quality_sections(group)),
        rank_changes=() if detail else rank_changes(sections, selection.records),
        environments=notes.environment_lines(selection.records),
        sanity=notes.sanity_of(kept),
        cards=notes.cards_of(selection.records),
        cautions=(*notes.grouped_cautions(kept), *_merged(cautions)),
        choices=(*notes.choice_lines(selection.records), *rank_change_lines(sections, selection.records)),
        left_out=selection.left_out,
    )
    return replace(table, verdict=sentences(table))


def _merged(cautions: Sequence[Caution]) -> tuple[Caution, ...]:
    """Say each code once, with all the places that it concerns."""
    found: dict[str, list[str]] = {}
    for caution in cautions:
        found.setdefault(caution.code, []).append(caution.text)
    return tuple(
        Caution(code=code, text=f"{_MEANINGS[code]}: {'; '.join(dict.fromkeys(places))}")
        for code, places in found.items()
    )
