"""What the cards of techniques claim, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from efficientllm.analysis.catalogue import judge_of
from efficientllm.analysis.table import Section, StudyTable
from efficientllm.records.card import Card
from efficientllm.report import marks

#: How a verdict that neither bears out nor contradicts a claim is said.
_OPEN = {"equivalent": "no difference", "unresolved": "cannot tell"}


@dataclass(frozen=True)
class ClaimView:
    """One claim of a card beside what was measured, by section."""

    technique: str
    title: str
    source: str
    claim: str
    measured: tuple[tuple[str, str, str], ...]


def claim_views(table: StudyTable) -> list[ClaimView]:
    """Return every claim of the techniques' cards with the verdicts on its metric, section by section.

    Args:
        table: with all metrics as columns: not every claim is judged by a headline.
    """
    views = []
    for key, card in table.cards.items():
        technique = key.partition(" (")[0] if key not in _techniques(table) else key
        claims = [(word, "better") for word in card.improves] + [(word, "worse") for word in card.costs]
        for word, expected in claims:
            measured = tuple(_measured(section, technique, word, expected) for section in table.sections)
            views.append(_claim(key, card, word, expected, measured))
    return views


def _claim(
    technique: str, card: Card, word: str, expected: str, measured: tuple[tuple[str, str, str], ...]
) -> ClaimView:
    verb = "improves" if expected == "better" else "costs"
    return ClaimView(
        technique=technique, title=card.title, source=card.source, claim=f"{verb} {word}", measured=measured
    )


def _techniques(table: StudyTable) -> set[str]:
    return {row.technique for section in table.sections for row in section.rows}


def _measured(section: Section, technique: str, word: str, expected: str) -> tuple[str, str, str]:
    """Return how a claim stands in a section (`holds`, `contrary`, `open`, `none`), the words for it, and the ratio."""
    row = next((row for row in section.rows if row.technique == technique), None)
    cell = row.cells.get(judge_of(word, section.window.partition(" ")[0])) if row else None
    if row is not None and row.baseline:
        return "none", "baseline", ""
    if cell is None or cell.value is None:
        return "none", "not measured", ""
    if not cell.verdict:
        return "none", "not compared", ""
    state = "holds" if cell.verdict == expected else "contrary" if cell.verdict in ("better", "worse") else "open"
    words = {"holds": "as claimed", "contrary": "contrary to it"}.get(state) or _OPEN[cell.verdict]
    return state, f"{marks.SIGNS[cell.verdict]} {words}", marks.ratio_text(cell)
