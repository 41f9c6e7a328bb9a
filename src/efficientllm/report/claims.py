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
    """One claim of a card beside what was measured, by section.

    `num_claims` is how many claims the card makes, at the first of them; 0 at the others.
    """

    technique: str
    title: str
    source: str
    claim: str
    measured: tuple[tuple[str, str, str], ...]
    num_claims: int


def claim_views(table: StudyTable) -> list[ClaimView]:
    """Return every claim that the study tests with the verdicts on its metric, section by section.

    A card that a section's baseline carries too is no lever there: of `lora mha` beside `full mha` the claims of lora
    are tested, those of mha are not.

    Args:
        table: with all metrics as columns: not every claim is judged by a headline.
    """
    views = []
    for key, card in _tested(table).items():
        technique = _technique(key, _techniques(table))
        claims = _claims(card)
        for place, (word, expected) in enumerate(claims):
            verb = "improves" if expected == "better" else "costs"
            measured = tuple(_measured(section, technique, word, expected) for section in table.sections)
            views.append(
                ClaimView(
                    technique=technique,
                    title=card.title,
                    source=card.source,
                    claim=f"{verb} {word}",
                    measured=measured,
                    num_claims=0 if place else len(claims),
                )
            )
    return views


def untested(table: StudyTable) -> list[Card]:
    """Return the cards whose claims no section tests: what the baselines carry too, and what nothing was told of."""
    tested = _tested(table).values()
    return list({card.title: card for card in table.cards.values() if card not in tested}.values())


def _tested(table: StudyTable) -> dict[str, Card]:
    """Return key -> card, for cards that differ from the baseline's in some section that compares their technique."""
    cards_of: dict[str, list[Card]] = {}
    names = _techniques(table)
    for key, card in table.cards.items():
        cards_of.setdefault(_technique(key, names), []).append(card)
    tested = {}
    for key, card in table.cards.items():
        name = _technique(key, names)
        for section in table.sections:
            baseline = next((row.technique for row in section.rows if row.baseline), "")
            stands = any(row.technique == name for row in section.rows)
            differs = stands and baseline != name and card not in cards_of.get(baseline, [])
            if differs and any(_measured(section, name, *claim)[0] != "none" for claim in _claims(card)):
                tested[key] = card
    return tested


def _claims(card: Card) -> list[tuple[str, str]]:
    return [(word, "better") for word in card.improves] + [(word, "worse") for word in card.costs]


def _technique(key: str, names: set[str]) -> str:
    """Return whose card a key of `StudyTable.cards` names: `lora mha (method)` is that of `lora mha`."""
    return key if key in names else key.rpartition(" (")[0]


def _techniques(table: StudyTable) -> set[str]:
    return {row.technique for section in table.sections for row in section.rows}


def _measured(section: Section, technique: str, word: str, expected: str) -> tuple[str, str, str]:
    """Return how a claim stands in a section (`holds`, `contrary`, `open`, `none`), the words for it, and the ratio."""
    row = next((row for row in section.rows if row.technique == technique), None)
    cell = row.cells.get(judge_of(word, section.window.partition(" ")[0])) if row else None
    if row is not None and row.baseline:
        return "none", "baseline", ""
    if cell is None or cell.value is None:
        return "none", "–", ""
    if not cell.verdict:
        return "none", "not compared", ""
    state = "holds" if cell.verdict == expected else "contrary" if cell.verdict in ("better", "worse") else "open"
    words = {"holds": "as claimed", "contrary": "contrary to it"}.get(state) or _OPEN[cell.verdict]
    return state, f"{marks.SIGNS[cell.verdict]} {words}", marks.ratio_text(cell)
