"""Measurements from wherever they are: a study, a results folder, a bundle, or one measurement's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from efficientllm.errors import ResultsError, did_you_mean
from efficientllm.records.codec import CodecError, decode
from efficientllm.records.measurement import Measurement
from efficientllm.store.bundle import verify_bundle
from efficientllm.store.container import unpack
from efficientllm.store.folder import Problem, Study, is_study_folder, read_measurement, studies

#: Study -> its measurements.
Found = dict[str, list[Measurement]]


def is_source(name: str, results: Path) -> bool:
    """Return whether a name is a study of the results folder, or a path that is there."""
    return name in studies(results) or Path(name).exists()


def read_source(name: str, results: Path) -> tuple[Found, tuple[str, ...]]:
    """Read all measurements of a source; nothing is stored.

    Args:
        name: a study's name, or a path: a study's folder, a results folder, a bundle, a measurement's file. A study
            goes before a path of the same name (`./NAME` is the path).
        results: where studies are looked for.

    Returns:
        study -> measurements, and what could not be read.

    Raises:
        ResultsError: it is none of these, or a bundle is truncated or corrupt.
    """
    path = Path(name)
    if name in studies(results):
        return _read_studies({name: Study(results, name)})
    if path.is_dir() and is_study_folder(path):
        folder = path.resolve()
        return _read_studies({folder.name: Study(folder.parent, folder.name)})
    if path.is_dir() and (inside := studies(path)):
        return _read_studies({study: Study(path, study) for study in inside})
    if path.is_file():
        return _read_file(path)
    known = studies(results)
    what = "holds no study" if path.is_dir() else "is no study, no folder and no file"
    raise ResultsError(
        f"{name!r} {what}. {did_you_mean(name, known)}Give a bundle, a results folder, a measurement's file or a study "
        f"of {results}: {', '.join(known) or 'there is none yet'}."
    )


def _read_studies(wanted: dict[str, Study]) -> tuple[Found, tuple[str, ...]]:
    found: Found = {}
    problems: list[Problem] = []
    for name, study in wanted.items():
        found[name] = list(study.measurements(problems))
    return found, tuple(str(problem) for problem in problems)


def _read_file(path: Path) -> tuple[Found, tuple[str, ...]]:
    if path.suffix == ".json":
        measurement = read_measurement(path)
        if isinstance(measurement, Problem):
            raise ResultsError(f"{path} is {measurement.reason}.")
        folder = path.resolve().parent
        return {folder.parent.name if folder.name == "measurements" else path.stem: [measurement]}, ()
    manifest = verify_bundle(path)
    problems: list[str] = []
    return {manifest.study: list(_of_bundle(path, problems))}, tuple(problems)


def _of_bundle(path: Path, problems: list[str]) -> Iterator[Measurement]:
    for name, data in unpack(path):
        if name.startswith("measurements/"):
            try:
                yield decode(data)
            except CodecError as error:
                problems.append(f"{name}: no measurement: {error}")
