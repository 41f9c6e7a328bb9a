"""What a comparison shows, as lines of words: the same for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.analysis.comparison import FADES, FLIPS, UNDECIDED, ComparisonTable, Conclusion, Difference, SideFacts
from efficientllm.analysis.comparison_words import place_words, ratio_words
from efficientllm.report.marks import OUTCOMES, SIGNS, figure_text

#: What is said of a side's environment, in this order.
_SAID = ("device", "torch", "efficientllm", "commit", "machine")
_LIMITS = {"fails": "over the limit", "cannot tell": "limit: cannot tell", "holds": "within the limit"}
_CERTAIN = ("better", "worse")

LEGEND = (
    "▲ better, ▼ worse, ≈ equivalent, ? cannot tell: B against A, Holm-corrected over all figures compared, 95 %; the "
    "intervals are each figure's own"
)
CONCLUSIONS = (
    "one technique against another within a side, paired by round, corrected as in its own table; fades: a difference "
    "in one side, shown equivalent in the other"
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A table of words with its heading: the first line of `rows` is the columns' headings."""

    heading: str
    rows: tuple[tuple[str, ...], ...]


def side_text(side: SideFacts) -> str:
    """Return what a side is: how many measurements, on what and with what."""
    said = [f"{key} {side.environment[key]}" if key != "device" else side.environment[key] for key in _SAID
            if key in side.environment]  # fmt: skip
    return ", ".join([f"{side.measurements} {'measurement' if side.measurements == 1 else 'measurements'}", *said])


def how_text(table: ComparisonTable) -> str:
    """Return how the sides are compared."""
    if not table.same_hardware:
        return (
            "Other devices: unpaired (Welch's test on logarithms); time as the share of each device's own limit that "
            "was attained, by its calibrated ceilings"
        )
    paired = sum(one.paired for one in table.differences)
    if paired == len(table.differences):
        return "The same devices: paired by round"
    return (
        f"The same devices: {paired} of {len(table.differences)} figures paired by round, the others have no round and "
        "seed in common (Welch's test on logarithms)"
    )


def environment_text(table: ComparisonTable) -> str:
    """Return what differs between the environments, empty where nothing does."""
    shown = [f"{key} {a} / {b}" for key, (a, b) in table.environment.items() if key not in ("machine", "device")]
    return ", ".join(shown)


def difference_blocks(table: ComparisonTable, everything: bool) -> list[Block]:
    """Return a block for each window with the figures that certainly differ, or with all."""
    kept = [one for one in table.differences if everything or one.verdict in _CERTAIN or one.limit == "fails"]
    blocks = []
    for stage, window in dict.fromkeys((one.stage, one.window) for one in kept):
        inside = [one for one in kept if (one.stage, one.window) == (stage, window)]
        rows = [_difference(one) for one in sorted(inside, key=lambda one: not _first(one))]
        head = ("", "", "A", "B", "B/A", "", "")
        blocks.append(Block(heading=place_words(stage, window), rows=(head, *rows)))
    return blocks


def _first(one: Difference) -> bool:
    return one.limit == "fails"


def _difference(one: Difference) -> tuple[str, ...]:
    unit = (figure_text(one.column, one.a), figure_text(one.column, one.b))
    ratio = ratio_words(one.ratio, one.low, one.high)
    if one.low is None and one.verdict:
        ratio = f"{ratio} ({'exact' if one.p_value is not None else f'n={one.n_a}, {one.n_b}'})".strip()
    said = _LIMITS.get(one.limit, "")
    return one.technique, one.column.title, *unit, ratio, SIGNS.get(one.verdict, " "), said


def conclusion_blocks(table: ComparisonTable, everything: bool) -> list[Block]:
    """Return what each side says of the techniques: between devices, and wherever something flips."""
    if not everything and table.same_hardware:
        kept = [one for one in table.conclusions if one.word in (FLIPS, FADES)]
    else:
        kept = [one for one in table.conclusions if everything or _shown(one)]
    blocks = []
    for stage, window in dict.fromkeys((one.stage, one.window) for one in kept):
        inside = [one for one in kept if (one.stage, one.window) == (stage, window)]
        inside.sort(key=lambda one: (one.word != FLIPS, one.word != FADES, one.word == UNDECIDED))
        rows = [_conclusion(one) for one in inside]
        head = ("", "", "in A", "in B", "")
        blocks.append(Block(heading=place_words(stage, window), rows=(head, *rows)))
    return blocks


def _shown(one: Conclusion) -> bool:
    return one.word in (FLIPS, FADES) or (one.baseline and one.word != UNDECIDED)


def _conclusion(one: Conclusion) -> tuple[str, ...]:
    said = [
        f"{ratio_words(ratio)} {SIGNS.get(verdict, ' ')}".strip()
        for ratio, verdict in ((one.ratio_a, one.on_a), (one.ratio_b, one.on_b))
    ]
    return (
        f"{one.technique} / {one.other}",
        one.column.title,
        *said,
        one.word.upper() if one.word == FLIPS else one.word,
    )


def ended_lines(table: ComparisonTable) -> list[str]:
    """Return the rows with figures on one side only, grouped by place."""
    return [
        f"{place_words(one.stage, one.window)}, {one.technique}: {_outcome(one.outcome_a)} in A, "
        f"{_outcome(one.outcome_b)} in B{f' ({one.reason})' if one.reason else ''}"
        for one in table.ended
    ]


def _outcome(outcome: str) -> str:
    return OUTCOMES.get(outcome, outcome)


def unmatched_lines(table: ComparisonTable) -> list[str]:
    """Return what has no partner, with the conditions in which it differs from the nearest row of the other side."""
    lines = []
    for one in table.unmatched:
        rows = listed(one.rows)
        differs = ", ".join(f"{key} ({own} / {other})" for key, (own, other) in one.differs.items())
        why = f"differs in {differs}" if differs else "no such row there"
        lines.append(f"only in {one.side.upper()}: {rows}: {why}")
    return lines


def absent_lines(table: ComparisonTable) -> list[str]:
    """Return the figures that were not compared, with the reason."""
    return [f"not compared: {reason}: {listed(rows)}" for reason, rows in table.not_compared.items()]


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names, the first few of many.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def hidden_text(table: ComparisonTable, everything: bool) -> str:
    """Return what `--all` would show besides, empty where that is nothing."""
    hidden = [one for one in table.differences if one.verdict not in _CERTAIN and one.limit != "fails"]
    undecided = [one for one in table.conclusions if not _shown(one)]
    if everything or not (hidden or undecided):
        return ""
    return f"--all lists {len(hidden)} more figures and {len(undecided)} more conclusions"
