"""From studies' names to a pool of their records, and options of several words; what `rank` and `pareto` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.errors import ResultsError, UserError

if TYPE_CHECKING:
    from efficientllm.analysis.pool import Pool


def pool_of(results: Path, names: list[str] | None) -> Pool:
    """Read studies into a pool; without names the only study there is.

    Raises:
        ResultsError: there is no such study, or several and none was named.
    """
    from efficientllm.analysis.pool import Pool
    from efficientllm.cli._tables import known_studies, read_study

    names = list(dict.fromkeys(names or []))
    if not names:
        names = known_studies(results)
        if len(names) != 1:
            listed = ", ".join(names) or "none yet; `efficientllm run quickstart` makes one"
            raise ResultsError(f"which study? Give one or several of those in {results}: {listed}.")
    read = {name: read_study(results, name) for name in names}
    problems = tuple(f"{name}/{text}" for name, (_, texts) in read.items() for text in texts)
    return Pool({name: records for name, (records, _) in read.items()}, problems)


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of a list with commas.

    >>> names_in("mha, mla"), names_in("")
    (('mha', 'mla'), ())
    """
    return tuple(word for part in text.split(",") if (word := part.strip()))


def weights_in(text: str) -> dict[str, float]:
    """Return metric -> weight; none where all are equal.

    Raises:
        UserError: it is neither `equal` nor a list of metric=number.

    >>> weights_in("memory=2, energy=1"), weights_in("equal")
    ({'memory': 2.0, 'energy': 1.0}, {})
    """
    found = {}
    for part in () if text == "equal" else names_in(text):
        name, _, number = part.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise UserError(f"--weights: {part!r} is no metric=number. Write memory=2,energy=1, or equal.") from None
    return found
