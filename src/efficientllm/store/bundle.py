"""A study as one file, and studies brought together.

`write_bundle` packs measurements with their raw series, the recipes and a manifest; artifacts stay behind. The same
study gives the same bytes. `merge_bundle` takes a bundle, a study's folder or a whole results folder; each measurement
is added, or is there already, or is refused by name: nothing is counted twice and nothing stored is touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from efficientllm.errors import ResultsError
from efficientllm.records.codec import CodecError, decode
from efficientllm.records.measurement import Measurement
from efficientllm.store.anonymous import HIDDEN, anonymised
from efficientllm.store.atomic import replace, write_new
from efficientllm.store.container import pack, unpack
from efficientllm.store.folder import Problem, Study, is_study_folder, read_measurement, studies
from efficientllm.store.names import check_study_name, is_safe_id

#: Version of the bundle's form.
BUNDLE_VERSION = 1
#: The first file in it.
MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        study: the study's name where it was packed.
        schemas, software_versions: those of the measurements.
        sha256: name in the bundle -> hash of its bytes.
        anonymised: what was replaced by pseudonyms before packing; empty where nothing was.
    """

    bundle: int = BUNDLE_VERSION
    study: str
    schemas: tuple[int, ...] = ()
    software_versions: tuple[str, ...] = ()
    sha256: dict[str, str] = {}
    anonymised: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What went into a bundle: how many measurements, and the files left out because they could not be read."""

    file: Path
    measurements: int
    left_out: tuple[Problem, ...] = ()


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        added, already_there: ids of measurements, with the study before a slash: `attention/0f3a-77bc-0`.
        refused: id or file, in the same form -> why.
    """

    added: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def write_bundle(
    study: Study, file: Path, *, overwrite: bool = False, anonymous: Collection[str] | None = None
) -> BundleReport:
    """Pack a study into one file.

    Args:
        study: what to pack.
        file: where to; its folder must exist.
        overwrite: whether another bundle may be there.
        anonymous: hide whose the study is, and with it these names; None packs it as it is.

    Raises:
        ResultsError: there is nothing to pack, another file is there, or it cannot be written.
    """
    contents: dict[str, bytes] = {}
    found: list[Measurement] = []
    left_out: list[Problem] = []
    for path in study.files():
        measurement = read_measurement(path)
        if isinstance(measurement, Problem):
            left_out.append(measurement)
            continue
        found.append(measurement)
        contents[f"measurements/{path.name}"] = path.read_bytes()
    if not found:
        raise ResultsError(f"study {study.name!r} in {study.results} holds no measurement to bundle.")
    contents |= {f"recipes/{path.name}": path.read_bytes() for path in study.recipes()}
    if anonymous is not None:
        contents = anonymised(contents, anonymous)
    manifest = Manifest(
        study=study.name,
        schemas=tuple(sorted({measurement.schema for measurement in found})),
        software_versions=tuple(sorted({measurement.software_version for measurement in found})),
        sha256={name: _sha256(data) for name, data in contents.items()},
        anonymised=HIDDEN if anonymous is not None else (),
    )
    packed = pack([(MANIFEST, msgspec.json.encode(manifest, order="deterministic")), *contents.items()])
    (replace if overwrite else write_new)(file, packed)
    return BundleReport(file=file, measurements=len(found), left_out=tuple(left_out))


def read_manifest(file: Path) -> Manifest:
    """Return a bundle's manifest, without reading the rest.

    Raises:
        ResultsError: the file is no bundle, or one of a newer form.
    """
    name, data = next(unpack(file), ("", b""))
    if name != MANIFEST:
        raise ResultsError(f"{file} does not begin with a manifest: it is no bundle.")
    return parse_manifest(data, str(file))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest that some bytes are.

    Raises:
        ResultsError: they are none, or one of a newer form.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsError(f"{where} has a manifest that cannot be read: {error}.") from error
    if manifest.bundle > BUNDLE_VERSION:
        raise ResultsError(
            f"{where} is a bundle of form {manifest.bundle}, newer than this software's {BUNDLE_VERSION}."
        )
    return manifest


def merge_bundle(source: Path, results: Path, name: str | None = None) -> MergeReport:
    """Add the measurements of a bundle, a study's folder or a results folder to `results`.

    A bundle is verified as a whole before anything of it is stored.

    Args:
        source: what to take.
        results: the results folder to add to.
        name: study to add to; without it, each study keeps its name.

    Raises:
        ResultsError: `source` is none of these, truncated or corrupt, or `results` cannot be written.
    """
    report = MergeReport()
    if source.is_file():
        manifest = verify_bundle(source)
        _merge_one(Study(results, name or manifest.study), unpack(source), report)
    elif is_study_folder(source):
        _merge_one(Study(results, name or source.resolve().name), _folder_files(source, report), report)
    elif source.is_dir() and studies(source):
        for study in studies(source):
            _merge_one(Study(results, name or study), _folder_files(source / study, report), report)
    else:
        raise ResultsError(f"{source} is no bundle, no study and no results folder. Give one of these.")
    return report


def verify_bundle(file: Path) -> Manifest:
    """Read a whole bundle and hold it against its manifest.

    Raises:
        ResultsError: it is truncated or corrupt, or a file is missing, too many or changed.
    """
    manifest = read_manifest(file)
    check_study_name(manifest.study)
    missing = dict(manifest.sha256)
    for name, data in unpack(file):
        if name != MANIFEST and missing.pop(name, "") != _sha256(data):
            raise ResultsError(f"{file} is corrupt: {name} is not what its manifest says. Fetch it again.")
    if missing:
        raise ResultsError(f"{file} is incomplete: {next(iter(missing))} is missing. Fetch it again.")
    return manifest


def _folder_files(folder: Path, report: MergeReport) -> Iterator[tuple[str, bytes]]:
    study = Study(folder.resolve().parent, folder.resolve().name)
    for path in [*study.files(), *study.recipes()]:
        try:
            data = path.read_bytes()
        except OSError as error:
            report.refused[f"{study.name}/{path.stem}"] = f"cannot be read: {error.strerror}"
            continue
        yield f"{path.parent.name}/{path.name}", data


def _merge_one(study: Study, files: Iterator[tuple[str, bytes]], report: MergeReport) -> None:
    study.check_writable()
    for name, data in files:
        kind, stem = PurePosixPath(name).parent.name, PurePosixPath(name).stem
        if kind == "recipes":
            study.keep_recipe(data)
        elif kind == "measurements":
            _add(study, stem, data, report)


def _add(study: Study, stem: str, data: bytes, report: MergeReport) -> None:
    label = f"{study.name}/{stem}"
    try:
        new = decode(data)
        names_its_trial = new.id.startswith(f"{new.trial.id}-{new.environment.id}-")
        if new.id != stem or not names_its_trial or not is_safe_id(stem):
            report.refused[label] = f"calls itself {new.id!r}, trial {new.trial.id}, environment {new.environment.id}"
            return
    except CodecError as error:
        report.refused[label] = f"no measurement: {error}"
        return
    path = study.measurement_file(stem)
    if not path.exists() and write_new(path, data):
        report.added.append(label)
        return
    here = read_measurement(path)
    if path.read_bytes() == data or here == new:
        report.already_there.append(label)
    elif isinstance(here, Problem):
        report.refused[label] = f"the one that is here cannot be read ({here.reason}); move {path} away and merge again"
    else:
        report.refused[label] = (
            "the same trial was measured twice in one environment: here "
            f"{_origin(here)}, there {_origin(new)}; the one that is here stays"
        )


def _origin(measurement: Measurement) -> str:
    host = measurement.environment.host or "an unnamed host"
    return f"{measurement.outcome} on {host} at {measurement.started_at or 'an unknown time'}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
