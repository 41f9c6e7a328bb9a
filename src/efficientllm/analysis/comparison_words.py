"""A comparison in words: what is certain first, then what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from efficientllm.analysis.comparison import (
    CARRIES_OVER,
    FADES,
    FLIPS,
    UNDECIDED,
    ComparisonTable,
    Conclusion,
    Difference,
)
from efficientllm.analysis.words import where
from efficientllm.stats.paired import FEWEST_ROUNDS
from efficientllm.units import percent_text, quantity_text, significant

_MOST = 3


def place_words(stage: str, window: str) -> str:
    """Return where a figure stands.

    >>> place_words("inference", "decode batch=1 tokens=512"), place_words("pretrain", "train")
    ('inference decode, batch 1, 512 tokens', 'pretrain')
    """
    said = " / ".join(where(stage, part) for part in window.split(" / "))
    return said if said == stage else f"{stage} {said}"


def ratio_words(ratio: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write b/a with its interval.

    >>> ratio_words(1.1, 1.08, 1.12), ratio_words(2.0), ratio_words(None)
    ('1.10× (1.08–1.12)', '2.00×', '')
    """
    if ratio is None:
        return ""
    ends = f" ({significant(low)}–{significant(high)})" if low is not None and high is not None else ""
    return f"{significant(ratio)}×{ends}"


def difference_words(one: Difference) -> str:
    """Return one difference as a sentence's part: `pretrain mqa: Step 75.3 ms, was 68.4 ms, 1.10× (1.08–1.12)`."""
    a, b = (quantity_text(value, one.column.unit) for value in (one.a, one.b))
    ratio = ratio_words(one.ratio, one.low, one.high)
    return f"{place_words(one.stage, one.window)}, {one.technique}: {one.column.title} {b}, was {a}, {ratio}"


def sentences(table: ComparisonTable) -> tuple[str, ...]:
    """Return the verdict, most important first."""
    said = [*_limit(table), _counts(table)]
    said += _gone(table)
    if not table.same_hardware or any(one.word in (FLIPS, FADES) for one in table.conclusions):
        said += _transfer(table.conclusions)
    said += _unmatched(table)
    return tuple(text for text in said if text)


def _limit(table: ComparisonTable) -> list[str]:
    if table.fail_over is None:
        return []
    limit = percent_text(table.fail_over)
    doubtful = [one for one in table.differences if one.limit == "cannot tell"]
    doubt = (
        f" Whether {len(doubtful)} of {len(table.differences)} figures keep the limit cannot be told."
        if doubtful
        else ""
    )
    if not table.regressions:
        return [f"No regression over {limit} was shown.{doubt}"]
    number = len(table.regressions)
    word = "regression" if number == 1 else "regressions"
    return [f"{number} {word} (limit {limit}): {_listed(table.regressions)}.{doubt}"]


def _counts(table: ComparisonTable) -> str:
    if not table.differences:
        return "No figure stands on both sides."
    count = Counter(one.verdict or "unresolved" for one in table.differences)
    most = max(min(one.n_a, one.n_b) for one in table.differences)
    few = f" {most} repeats of a side tell nothing: measure {FEWEST_ROUNDS} at least." if most < FEWEST_ROUNDS else ""
    words = {"worse": "worse", "better": "better", "equivalent": "equivalent", "unresolved": "cannot be told apart"}
    told = ", ".join(f"{count[key]} {word}" for key, word in words.items() if count[key])
    return f"Of {len(table.differences)} figures that both have, B against A: {told}.{few}"


def _gone(table: ComparisonTable) -> list[str]:
    lost = [one for one in table.ended if one.regression] if table.fail_over is None else []
    new = [one for one in table.ended if one.outcome_a != "ok" and one.outcome_b == "ok"]
    said = []
    for what, rows in (("Figures of A that B lacks", lost), ("Figures of B that A lacks", new)):
        ends = [one.outcome_b if one.regression else one.outcome_a for one in rows]
        places = [f"{one.technique} in {place_words(one.stage, one.window)}" for one in rows]
        told = [f"{place} ({end})" for place, end in zip(places, ends, strict=True)]
        said += [f"{what}: {_listed(told)}."] if told else []
    return said


def _transfer(conclusions: Sequence[Conclusion]) -> list[str]:
    first = [one for one in conclusions if one.baseline]
    if not conclusions:
        return []
    looked = first or list(conclusions)
    count = Counter(one.word for one in looked)
    against = "against the baseline" if first else "of one technique against another"
    told = ", ".join(
        f"{count[word]} {_plural(word, count[word])}" for word in (CARRIES_OVER, FLIPS, FADES, UNDECIDED) if count[word]
    )
    said = [f"Of {len(looked)} conclusions {against}, from A to B: {told}."]
    flips = [one for one in conclusions if one.word == FLIPS]
    if flips:
        said.append(f"What flips: {_listed([conclusion_words(one) for one in flips])}.")
    return said


def _plural(word: str, count: int) -> str:
    """Say of several what is said of one: 1 flips, 2 flip.

    >>> _plural("carries over", 2), _plural("flips", 1), _plural("undecided", 1), _plural("undecided", 2)
    ('carry over', 'flips', 'is undecided', 'are undecided')
    """
    if word == UNDECIDED:
        return f"{'is' if count == 1 else 'are'} {word}"
    many = {CARRIES_OVER: "carry over", FLIPS: "flip", FADES: "fade"}
    return word if count == 1 else many[word]


def conclusion_words(one: Conclusion) -> str:
    """Return one conclusion of both sides: `pretrain, mqa against mha: Step 0.900× on A, 1.12× on B`."""
    ratios = f"{ratio_words(one.ratio_a)} in A, {ratio_words(one.ratio_b)} in B"
    return f"{place_words(one.stage, one.window)}, {one.technique} against {one.other}: {one.column.title} {ratios}"


def _unmatched(table: ComparisonTable) -> list[str]:
    rows = Counter({one.side: 0 for one in table.unmatched})
    for one in table.unmatched:
        rows[one.side] += len(one.rows)
    if not rows:
        return []
    told = " and ".join(f"{number} of {side.upper()}" for side, number in sorted(rows.items()))
    return [f"Rows without a partner, not compared: {told} (listed below)."]


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _MOST
    return "; ".join([*parts[:_MOST], *([f"{more} more"] if more > 0 else [])])
