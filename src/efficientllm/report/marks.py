"""What stands in a cell, the same in every form of a report: figure, interval, verdict, rank, footnotes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.table import Cell, Column, Row, Sanity
from efficientllm.analysis.words import where
from efficientllm.units import count_text, percent_text, quantity_text, significant

#: verdict -> its sign, which reads without colour.
SIGNS = {"better": "▲", "worse": "▼", "equivalent": "≈", "unresolved": "?"}
ON_FRONT = "◆"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

LEGEND = (
    "▲ better, ▼ worse, ≈ equivalent, ? cannot tell: against the baseline, paired by round, Holm-corrected, 95 %",
    "± half width of the 95 % interval over repeats; #1 rank, =1 shared with a row that cannot be told from it",
    "under a name: parameters, share of the hardware's limit attained; ◆ beaten by none on memory, latency and quality",
)

#: outcome -> how a table says it.
OUTCOMES = {
    "oom": "out of memory",
    "unsupported": "unsupported",
    "diverged": "diverged",
    "crashed": "crashed",
    "invalid": "invalid",
    "interrupted": "interrupted",
    "missing": "not measured",
}


@dataclass
class Footnotes:
    """Reasons, each numbered once, in the order in which they are met."""

    reasons: dict[str, int] = field(default_factory=dict)

    def number(self, reason: str) -> int:
        """Return a reason's number."""
        return self.reasons.setdefault(reason, len(self.reasons) + 1)

    def mark(self, reason: str) -> str:
        """Return a reason's number raised.

        >>> notes = Footnotes()
        >>> notes.mark("no counter"), notes.mark("not calibrated"), notes.mark("no counter")
        ('¹', '²', '¹')
        """
        return str(self.number(reason)).translate(_SUPERSCRIPTS)


def sanity_text(sanity: Sanity, *, alone: bool) -> str:
    """Say what simple models make of a text; of several texts also which one, and whom it judges.

    >>> lines = Sanity(text="stdlib", stages=("pretrain", "inference"), bits_per_byte={"bz2": 2.1, "unigram": 2.84})
    >>> sanity_text(lines, alone=True)
    'bits/byte of the same text by simple models: bz2 2.10, unigram 2.84'
    >>> sanity_text(lines, alone=False)
    'bits/byte of stdlib by simple models (for pretrain, inference): bz2 2.10, unigram 2.84'
    """
    said = ", ".join(f"{name} {significant(value)}" for name, value in sanity.bits_per_byte.items())
    if alone:
        return f"bits/byte of the same text by simple models: {said}"
    return f"bits/byte of {sanity.text} by simple models (for {', '.join(sanity.stages)}): {said}"


def sanity_texts(sanities: Sequence[Sanity]) -> list[str]:
    """Return a line for each text."""
    return [sanity_text(sanity, alone=len(sanities) == 1) for sanity in sanities]


def figure_text(column: Column, value: float) -> str:
    """Write a figure as its column's cells show it; what the heading says already (a token) is left out.

    >>> figure_text(Column(key="energy_per_token", title="Energy/token", unit="j/token"), 0.0123)
    '12.3 mJ'
    >>> figure_text(Column(key="bits_per_byte", title="Bits/byte", unit="bits/byte"), 2.3123)
    '2.312'
    """
    text = quantity_text(value, column.unit, digits_of(column))
    _, _, per = column.unit.partition("/")
    return text.removesuffix(f"/{per}") if per and column.title.lower().endswith(f"/{per}") else text


def digits_of(column: Column) -> int:
    """Return how many digits a column's figures are written with: small differences of quality count."""
    return 4 if group_of(column.key) == "quality" or column.unit in ("nats/token", "bits/byte") else 3


def half_width(cell: Cell) -> float | None:
    """Return the interval's half width over the value, None where there is no interval."""
    if cell.low is None or cell.high is None or not cell.value:
        return None
    if cell.low > 0:
        return math.sqrt(cell.high / cell.low) - 1
    return (cell.high - cell.low) / 2 / abs(cell.value)


def evidence_text(cell: Cell) -> str:
    """Write how sure a figure is: its interval, else the number of its repeats, or that all gave the same.

    >>> evidence_text(Cell(value=1.0, low=0.98, high=1.02)), evidence_text(Cell(value=1.0, values={0: 1.0}))
    ('±2.0 %', 'n=1')
    """
    width = half_width(cell)
    if width is not None:
        return f"±{100 * width:.{0 if width >= 0.0995 else 1}f} %" if width >= 0.0005 else "<±0.1 %"
    if cell.value is None:
        return ""
    return "exact" if len(set(cell.values.values())) == 1 and len(cell.values) > 1 else f"n={len(cell.values)}"


def rank_text(cell: Cell) -> str:
    """Write a rank: `#1`, or `=1` where another row shares it.

    >>> rank_text(Cell(value=1.0, rank=2)), rank_text(Cell(value=1.0, rank=1, tied=True)), rank_text(Cell())
    ('#2', '=1', '')
    """
    return "" if cell.rank is None else f"{'=' if cell.tied else '#'}{cell.rank}"


def ratio_text(cell: Cell) -> str:
    """Write a ratio to the baseline with its interval.

    >>> ratio_text(Cell(value=1.0, ratio=0.953, ratio_low=0.94, ratio_high=0.966))
    '0.953× (0.940–0.966)'
    """
    if cell.ratio is None:
        return ""
    ends = ""
    if cell.ratio_low is not None and cell.ratio_high is not None:
        ends = f" ({significant(cell.ratio_low)}–{significant(cell.ratio_high)})"
    return f"{significant(cell.ratio)}×{ends}"


def stated_text(row: Row) -> str:
    """Write what is stated beside a name: front, parameters, share of the limit attained.

    >>> stated_text(Row(technique="mqa", on_front=True, stated={"parameters_total": 4.08e6, "attained": 0.565}))
    '◆ 4.08 M · 56 %'
    >>> stated_text(Row(technique="moe", stated={"parameters_total": 3.7e6, "parameters_active": 1.2e6}))
    '3.70 M (1.20 M active)'
    """
    said = []
    if "parameters_total" in row.stated:
        said.append(_parameters_text(row.stated))
    if "attained" in row.stated:
        said.append(percent_text(row.stated["attained"], 2))
    return " ".join([ON_FRONT] * bool(row.on_front) + [" · ".join(said)]).strip()


def below_name(row: Row) -> str:
    """Write what is stated below a name, in words: parameters, share of the limit attained.

    >>> below_name(Row(technique="mqa", on_front=True, stated={"parameters_total": 4.08e6, "attained": 0.565}))
    '4.08 M · 56 % of limit'
    """
    text = stated_text(row).replace(ON_FRONT, "").strip()
    return text + " of limit" * ("attained" in row.stated)


def _parameters_text(stated: Mapping[str, float]) -> str:
    """Write the stored parameters, and the active ones where a token does not use all."""
    total = stated["parameters_total"]
    active = stated.get("parameters_active", total)
    return count_text(total) + (f" ({count_text(active)} active)" if active < total else "")


def outcome_text(row: Row) -> str:
    """Write how a row without figures ended, with its reason."""
    return f"{OUTCOMES.get(row.outcome, row.outcome)}: {row.reason}"


def heading(stage: str, window: str) -> str:
    """Write a section's heading.

    >>> heading("inference", "decode batch=1 tokens=8192"), heading("pretrain", "train")
    ('inference · decode, batch 1, 8192 tokens', 'pretrain')
    """
    place = where(stage, window)
    return place if place == stage else f"{stage} · {place}"
