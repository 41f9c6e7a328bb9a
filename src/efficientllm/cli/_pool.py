"""From studies' names to a pool of their records, and options of several words; what `rank` and `pareto` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efficientllm.errors import ResultsError, UserError

if TYPE_CHECKING:
    from efficientllm.analysis.pool import Pool
    from efficientllm.records.measurement import Measurement


#: A terminal shows so many tables; more are counted, and asked for by name.
MOST_TABLES = 12


def pool_of(results: Path, names: list[str] | None) -> Pool:
    """Read studies into a pool, as outlines whose series are read when they are needed.

    Without names it is the only study there is.

    Raises:
        ResultsError: there is no such study, or several and none was named.
    """
    from efficientllm.analysis.pool import Pool
    from efficientllm.cli._tables import check_study, known_studies
    from efficientllm.store.folder import Problem, Study, read_measurement

    names = list(dict.fromkeys(names or []))
    if not names:
        names = known_studies(results)
        if len(names) != 1:
            listed = ", ".join(names) or "none yet; `efficientllm run quickstart` makes one"
            raise ResultsError(f"which study? Give one or several of those in {results}: {listed}.")
    for name in names:
        check_study(results, name)
    folders = {name: Study(results, name) for name in names}
    import gc

    read = {name: folder.outlines() for name, folder in folders.items()}
    gc.freeze()  # they stay until the end: no use in looking through them for garbage
    problems = [f"{name}/{problem}" for name, (_, found) in read.items() for problem in found]

    def whole(study: str, measurement_id: str) -> Measurement | str:
        found = read_measurement(folders[study].measurement_file(measurement_id))
        return str(found) if isinstance(found, Problem) else found

    return Pool({name: records for name, (records, _) in read.items()}, problems, whole)


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
