"""Files are those that the manifest lists, byte for byte, and recipes are named by their hash."""

from __future__ import annotations

from collections.abc import Iterator

from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import BUNDLE, MEASUREMENT, Submission


def _look(submission: Submission) -> Iterator[Fault]:
    if submission.kind == BUNDLE:
        yield from _manifest(submission)
    for file in submission.recipes:
        digest = submission.sha256[f"recipes/{file}"]
        if file != f"{digest[:8]}.yaml":
            yield Fault(where=f"recipes/{file}", why=f"its bytes hash to {digest[:8]}…, which is not its name")


def _manifest(submission: Submission) -> Iterator[Fault]:
    manifest = submission.manifest
    if manifest is None:
        if not submission.unreadable:
            yield Fault(where=submission.name, why="has no manifest")
        return
    for file, said in manifest.sha256.items():
        here = submission.sha256.get(file)
        if here is None:
            yield Fault(where=file, why="is listed in the manifest and is missing")
        elif here != said:
            yield Fault(where=file, why=f"hashes to {here[:16]}…, the manifest says {said[:16]}…")
    for file in submission.sha256.keys() - manifest.sha256.keys():
        yield Fault(where=file, why="is not listed in the manifest")
    measurements = submission.measurements()
    schemas = tuple(sorted({m.schema for m in measurements}))
    versions = tuple(sorted({m.software_version for m in measurements}))
    if not submission.unreadable and (schemas, versions) != (manifest.schemas, manifest.software_versions):
        told = f"schemas {manifest.schemas} and versions {manifest.software_versions}"
        yield Fault(where="manifest.json", why=f"tells of {told}; the records have {schemas} and {versions}")


def _none(submission: Submission) -> str:
    return "one file has no manifest" if submission.kind == MEASUREMENT else ""


ENTRY = CheckEntry(title="all bytes are those that were packed", order=10, look=_look, not_applicable=_none)
