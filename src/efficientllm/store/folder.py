"""A study's folder: one JSON file a measurement, added to and never edited.

    RESULTS/<study>/measurements/<measurement id>.json   the truth
    RESULTS/<study>/recipes/<hash>.yaml                  the recipes that were run
    RESULTS/<study>/artifacts/<trial id>/                models; while a training runs, what it goes on from
    RESULTS/<study>/index.sqlite                         a cache of `index`, deletable at any time
    RESULTS/.archive/<study>-<UTC time>/                 what --fresh put aside

A file that cannot be read is reported by name, and the rest is still given.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from efficientllm.errors import ResultsError
from efficientllm.records.codec import CodecError, decode, decode_compact, decode_outline, encode
from efficientllm.records.measurement import Measurement
from efficientllm.store.atomic import sweep, write_new
from efficientllm.store.attempts import standing
from efficientllm.store.names import check_id, check_study_name, is_safe_id

#: Of more measurements than so many the series are kept as compact arrays: a gigabyte in tuples is 300 MB in them.
MOST_AT_LENGTH = 1000
#: Makes a measurement of a file's bytes.
Decode = Callable[[bytes], Measurement]


@dataclass(frozen=True)
class Problem:
    """A file that is no readable measurement, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class Study:
    """One study in a results folder; the folder need not exist yet."""

    def __init__(self, results: Path, name: str) -> None:
        self.results = results
        self.name = check_study_name(name)
        self.path = results / name
        self.measurements_folder = self.path / "measurements"
        self.index_file = self.path / "index.sqlite"

    def check_writable(self) -> None:
        """Make the study's folders and write there, before anything is measured; sweep what killed runs left.

        Raises:
            ResultsError: the results folder cannot be written.
        """
        try:
            self.measurements_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"results folder {self.results} cannot be written: {error.strerror} ({error.filename}). "
                "Choose another one with --results."
            ) from error
        sweep(self.measurements_folder)

    def write(self, measurement: Measurement) -> Path:
        """Store a measurement, whole or not at all; the same one twice is stored once.

        Raises:
            ResultsError: another measurement has this id, the file cannot be written, or the record could not be read
                back (a figure that is not finite, say).
        """
        path = self.measurement_file(measurement.id)
        data = encode(measurement)
        try:
            decode(data)
        except CodecError as error:
            raise ResultsError(
                f"{path} could not be read back: {error}. Leave out figures that are not finite."
            ) from error
        if not self.measurements_folder.is_dir():
            self.check_writable()
        write_new(path, data)
        return path

    def measurement_file(self, measurement_id: str) -> Path:
        """Return where a measurement of this id is stored, whether it is there or not."""
        return self.measurements_folder / f"{check_id(measurement_id, 'measurement id')}.json"

    def files(self) -> list[Path]:
        """Return the stored files, sorted by name; temporary and hidden ones are none of them."""
        if not self.measurements_folder.is_dir():
            return []
        names = sorted(name for name in os.listdir(self.measurements_folder) if name.endswith(".json"))
        return [self.measurements_folder / name for name in names if not name.startswith(".")]

    def measurements(self, problems: list[Problem] | None = None) -> Iterator[Measurement]:
        """Yield what is stored, one at a time, in the order of the ids; append what cannot be read to `problems`."""
        for path in self.files():
            found = read_measurement(path)
            if isinstance(found, Measurement):
                yield found
            elif problems is not None:
                problems.append(found)

    def read_all(self) -> tuple[list[Measurement], list[Problem]]:
        """Return all that can be read, and by name what cannot; of very many the series stand in compact arrays."""
        files = self.files()
        return _read(files, decode if len(files) <= MOST_AT_LENGTH else decode_compact)

    def outlines(self) -> tuple[list[Measurement], list[Problem]]:
        """Return all that can be read, without their series, and by name what cannot; see `codec.decode_outline`."""
        return _read(self.files(), decode_outline)

    def done(self, trial_id: str, environment_id: str) -> Measurement | None:
        """Return the measurement that makes running this trial here needless, or None if it is to be run.

        See `attempts.standing`. A file that cannot be read counts as not there.
        """
        found = [read_measurement(path) for path in self._attempts(trial_id, environment_id).values()]
        return standing([measurement for measurement in found if isinstance(measurement, Measurement)])

    def next_attempt(self, trial_id: str, environment_id: str) -> int:
        """Return the number that the next measurement of this trial here carries, from 0; no number is used twice."""
        return max(self._attempts(trial_id, environment_id), default=-1) + 1

    def keep_recipe(self, data: bytes) -> Path:
        """Keep a copy of a recipe that was run, under its hash, once.

        Raises:
            ResultsError: it cannot be written.
        """
        path = self.path / "recipes" / f"{hashlib.sha256(data).hexdigest()[:8]}.yaml"
        self.check_writable()
        path.parent.mkdir(exist_ok=True)
        write_new(path, data)
        return path

    def recipes(self) -> list[Path]:
        """Return the recipes that were run, sorted by their hash."""
        return sorted((self.path / "recipes").glob("*.yaml"))

    def artifact_folder(self, trial_id: str) -> Path:
        """Return the folder of what a trial leaves; it is not made."""
        return self.path / "artifacts" / check_id(trial_id, "trial id")

    def archive(self) -> Path | None:
        """Put the whole study aside, to begin afresh; return where it is now, None if there was none.

        Raises:
            ResultsError: it cannot be moved.
        """
        if not self.path.exists():
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        target = self.results / ".archive" / f"{self.name}-{stamp}"
        number = 2
        while target.exists():
            target = target.with_name(f"{self.name}-{stamp}-{number}")
            number += 1
        try:
            target.parent.mkdir(exist_ok=True)
            self.path.rename(target)
        except OSError as error:
            raise ResultsError(f"{self.path} cannot be moved to {target}: {error.strerror}.") from error
        return target

    def _attempts(self, trial_id: str, environment_id: str) -> dict[int, Path]:
        """Return attempt -> file, ascending, by the files' names alone."""
        start = f"{check_id(trial_id, 'trial id')}-{check_id(environment_id, 'environment id')}-"
        numbered = {path.stem.removeprefix(start): path for path in self.measurements_folder.glob(f"{start}*.json")}
        return dict(sorted((int(tail), path) for tail, path in numbered.items() if tail.isdecimal()))


def read_measurement(path: Path, decoded: Decode = decode) -> Measurement | Problem:
    """Return the measurement of a file, or why it is none: truncated, foreign, too new, or under another's name.

    Args:
        path: the file.
        decoded: how its bytes are read: as a whole, compactly, or as an outline.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            measurement = decoded(file.readall())
    except CodecError as error:
        return Problem(path.name, f"no measurement: {error}")
    except OSError as error:
        return Problem(path.name, f"cannot be read: {error.strerror}")
    if not is_safe_id(measurement.id) or measurement.id != path.stem:
        return Problem(path.name, f"holds the measurement {measurement.id!r}, which belongs in a file of that name")
    return measurement


def _read(files: Sequence[Path], decoded: Decode) -> tuple[list[Measurement], list[Problem]]:
    """Read files; the collector of garbage waits meanwhile, since it would look through all of them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        found = [read_measurement(path, decoded) for path in files]
    finally:
        if was_on:
            gc.enable()
    problems = [one for one in found if isinstance(one, Problem)]
    return [one for one in found if isinstance(one, Measurement)], problems


def studies(results: Path) -> list[str]:
    """Return the names of the studies in a results folder, sorted; none if there is no such folder.

    Raises:
        ResultsError: it is not a folder, or cannot be read.
    """
    if not results.exists():
        return []
    try:
        return sorted(path.name for path in results.iterdir() if is_study_folder(path))
    except OSError as error:
        raise ResultsError(f"results folder {results} cannot be read: {error.strerror}.") from error


def is_study_folder(path: Path) -> bool:
    """Return whether a folder is a study's: it has measurements and is not hidden, as the archive is."""
    return not path.name.startswith(".") and (path / "measurements").is_dir()
