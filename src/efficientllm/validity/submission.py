"""What was handed in: a bundle, a study's folder or one measurement, read once, whatever state it is in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from efficientllm.errors import ResultsError
from efficientllm.physics.finding import Datasheet
from efficientllm.records.codec import CodecError, decode
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.measurement import Measurement
from efficientllm.store.bundle import MANIFEST, Manifest, parse_manifest
from efficientllm.store.container import unpack
from efficientllm.store.folder import Study, is_study_folder, studies

#: Returns the maker's figures of a device, None where none are known.
DatasheetOf = Callable[[DeviceInfo], Datasheet | None]

#: Kinds of submission.
BUNDLE, STUDY, MEASUREMENT = "bundle", "study", "measurement"


def no_datasheet(device: DeviceInfo) -> None:
    """Know no datasheet: what exceeds a calibrated ceiling is only suspicious then."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement: its file's stem, what it holds, and the JSON of trial and environment as it is stored."""

    name: str
    measurement: Measurement
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """All that checks look at.

    Attributes:
        name: what it is called in messages: the file or folder as it was given.
        kind: `BUNDLE`, `STUDY` or `MEASUREMENT`.
        records: those that can be read, in the order of the files.
        unreadable: file -> why it holds no measurement, or cannot be unpacked.
        recipes: file -> text.
        sha256: file -> hash of its bytes.
        manifest: of a bundle.
        datasheet: knows the makers' figures.
    """

    name: str
    kind: str
    records: tuple[Record, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[str, bytes] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    manifest: Manifest | None = None
    datasheet: DatasheetOf = no_datasheet

    def measurements(self) -> list[Measurement]:
        """Return the measurements that can be read."""
        return [record.measurement for record in self.records]


def read(path: Path, datasheet: DatasheetOf = no_datasheet) -> Iterator[Submission]:
    """Yield what a path holds: a bundle, a study, one measurement, or all studies of a results folder.

    A bundle that cannot be unpacked is a submission with that among its `unreadable` files.

    Raises:
        ResultsError: there is nothing of this kind.
    """
    if path.is_file() and path.suffix == ".json":
        yield of_files(str(path), MEASUREMENT, [(f"measurements/{path.name}", _bytes_of(path))], datasheet)
    elif path.is_file():
        try:
            found = list(unpack(path))
        except ResultsError as error:
            yield Submission(name=str(path), kind=BUNDLE, unreadable={str(path): str(error)}, datasheet=datasheet)
            return
        yield of_files(str(path), BUNDLE, found, datasheet)
    elif is_study_folder(path):
        yield _of_study(str(path), Study(path.resolve().parent, path.resolve().name), datasheet)
    elif path.is_dir() and studies(path):
        for study in studies(path):
            yield _of_study(str(path / study), Study(path, study), datasheet)
    else:
        raise ResultsError(f"{path} is no bundle, measurement, study or results folder. Give one of these.")


def of_files(
    name: str, kind: str, files: Iterable[tuple[str, bytes]], datasheet: DatasheetOf = no_datasheet
) -> Submission:
    """Return a submission of files in memory, named as in a bundle: `measurements/ID.json`, `recipes/HASH.yaml`."""
    records: list[Record] = []
    unreadable: dict[str, str] = {}
    recipes: dict[str, bytes] = {}
    sha256: dict[str, str] = {}
    manifest = None
    for file, data in files:
        place = PurePosixPath(file)
        if file == MANIFEST:
            try:
                manifest = parse_manifest(data, name)
            except ResultsError as error:
                unreadable[file] = str(error)
            continue
        sha256[file] = hashlib.sha256(data).hexdigest()
        if place.parent.name == "recipes":
            recipes[place.name] = data
            continue
        try:
            raw = _raw(data)
            _refuse_unhashed(raw)
            measurement = decode(data)
            _refuse_uneven(measurement)
            identity = {key: raw[key] for key in ("trial", "environment")}
            records.append(Record(name=place.stem, measurement=measurement, raw=identity))
        except CodecError as error:
            unreadable[file] = str(error)
    return Submission(
        name=name,
        kind=kind,
        records=tuple(records),
        unreadable=unreadable,
        recipes=recipes,
        sha256=sha256,
        manifest=manifest,
        datasheet=datasheet,
    )


def _of_study(name: str, study: Study, datasheet: DatasheetOf) -> Submission:
    paths = [*study.files(), *study.recipes()]
    return of_files(name, STUDY, [(f"{path.parent.name}/{path.name}", _bytes_of(path)) for path in paths], datasheet)


def _raw(data: bytes) -> dict[str, Any]:
    """Return a record's own JSON; one that nests too deep for it is no record of ours."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(str(error)) from error
    if not isinstance(found, dict):
        raise CodecError(f"Expected `object`, got `{type(found).__name__}`")
    return found


def _refuse_unhashed(raw: Mapping[str, Any]) -> None:
    """Refuse a preset by its path alone: reading the record would run whatever file is there on this machine."""
    place: Any = raw
    for key in ("trial", "settings", "preset"):
        place = place.get(key) if isinstance(place, dict) else None
    if isinstance(place, dict) and place.get("path") and not place.get("sha256"):
        raise CodecError(f"its preset is a file, {place['path']!r}, of which it tells no hash")


def _refuse_uneven(measurement: Measurement) -> None:
    """Refuse what no meter writes and no check could read: values without their times, a machine without a device."""
    if not measurement.environment.devices:
        raise CodecError("its environment names no device")
    for window in measurement.windows:
        for series in window.series:
            if len(series.at_s) != len(series.values):
                uneven = f"{len(series.values)} values at {len(series.at_s)} times"
                raise CodecError(f"{window.label()}: {series.name} has {uneven}")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}.") from error
