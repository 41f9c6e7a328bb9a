"""The shape of a finished table: what analysis hands to report, with every decision already taken."""

from __future__ import annotations

import msgspec

from efficientllm.records.card import Card
from efficientllm.records.window import Caution


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One metric as a table's column.

    Attributes:
        key: the metric's name, its file in `analysis/metrics/`.
        title: short heading; `symbol`: the paper's acronym, or empty.
        unit: base unit, for `units.quantity_text`.
        better: `low` or `high`, or empty for a figure that is only stated.
        meaning: one sentence.
    """

    key: str
    title: str
    unit: str
    better: str = ""
    symbol: str = ""
    meaning: str = ""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure with its evidence, or the reason why there is none.

    Attributes:
        value: the estimate over processes, in the column's base unit, or None.
        low, high: ends of the 95 % interval, or None; then `why_no_interval` says why.
        values: the per-process values, by repeat.
        absent: why there is no value, or empty.
        verdict: against the baseline: `better`, `worse`, `equivalent`, `unresolved`, or empty (the baseline itself,
            or nothing to compare).
        ratio, ratio_low, ratio_high: value over the baseline's, paired by round, with its interval where there is one.
        by_item: whether that ratio pairs items (rows of text, questions) and not rounds: it is then what tells how sure
            a difference is, far better than the spread over repeats.
        text: what is written in the figure's place, where words say more than it.
        rank: 1 + number of rows significantly better, or None; `tied`: another row has the same rank.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why_no_interval: str = ""
    values: dict[int, float] = {}
    absent: str = ""
    verdict: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    by_item: bool = False
    text: str = ""
    rank: int | None = None
    tied: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One technique in one section: the cells by column key.

    Attributes:
        outcome: `ok` when any repeat is; else how it ended, with `reason`.
        stated: counts stated beside the name, in base units (`parameters_total`, `cache_bytes_per_token` …).
        measurements: ids of the records behind the row.
        on_front: whether the row is on the section's Pareto front.
        beaten_by: rows that are at least as good everywhere and better somewhere, where it is not on the front.
    """

    technique: str
    baseline: bool = False
    outcome: str = "ok"
    reason: str = ""
    stated: dict[str, float] = {}
    cells: dict[str, Cell] = {}
    measurements: tuple[str, ...] = ()
    on_front: bool | None = None
    beaten_by: tuple[str, ...] = ()


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that may be compared: one window of one stage under equal conditions.

    Attributes:
        stage, window: which stage and window, `window` with its coordinates.
        conditions: what all rows share (workload, shape, corpus, dtype, device, protocol), for the heading.
        in_grid: whether it is one of many points, whose figures stand in `StudyTable.grids`; reports show those.
        rows_are: what a row is, where it is no technique.
        minor: whether it is for who looks closer: a page folds it, the terminal leaves it out.
    """

    stage: str
    window: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    conditions: dict[str, str] = {}
    in_grid: bool = False
    rows_are: str = "technique"
    minor: bool = False


class Sanity(msgspec.Struct, frozen=True, kw_only=True):
    """What simple models make of the text that judges some stages.

    Attributes:
        text: what it is (`stdlib`, `responses of docstrings`).
        stages: whose quality it judges.
        bits_per_byte: simple model -> its figure.
    """

    text: str
    stages: tuple[str, ...]
    bits_per_byte: dict[str, float]


class StudyTable(msgspec.Struct, frozen=True, kw_only=True):
    """All sections of a study with what a reader must know of them.

    Attributes:
        verdict: sentences in words, most important first.
        grids: for each stage with many points of a kind its rows at a glance, and a grid for each metric.
        crossovers: for each stage with several batches, the batch at which a technique stops helping.
        budgets: for each group of training runs, the losses at equal tokens, time and energy.
        quality: for each group of served models, what each text and each set of questions says of them.
        rank_changes: for each stage with settings of its own, its quality beside that of a stage without.
        environments: one line a machine.
        sanity: for each text that judges quality what simple models (`bz2`, `unigram`) make of it.
        choices: what earlier stages chose for later ones, with what was tried.
        left_out: records that exist but do not count here, each with its reason.
    """

    study: str
    title: str = ""
    verdict: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    grids: tuple[Section, ...] = ()
    crossovers: tuple[Section, ...] = ()
    budgets: tuple[Section, ...] = ()
    quality: tuple[Section, ...] = ()
    rank_changes: tuple[Section, ...] = ()
    environments: tuple[str, ...] = ()
    sanity: tuple[Sanity, ...] = ()
    cards: dict[str, Card] = {}
    cautions: tuple[Caution, ...] = ()
    choices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def shown(self) -> tuple[Section, ...]:
        """Return the sections that a report shows as tables: points of a grid are not among them."""
        return tuple(section for section in self.sections if not section.in_grid)
