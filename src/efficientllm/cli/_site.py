"""From a folder of bundles to a static site; what `report --site` does."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from efficientllm.errors import ResultsError, UserError

#: Where a site has its description, and how an index of ours is known.
DESCRIPTION, MARK = "croissant.json", "efficientllm <span>leaderboard</span>"


def write_site(folder: Path, output: Path, *, license_: str = "", creator: str = "", url: str = "") -> Path:
    """Validate every bundle of a folder and write the site; return its index.

    Raises:
        ResultsError: no such folder, no bundle in it, or the site cannot be written.
        UserError: a licence without a creator, or the other way round.
    """
    from efficientllm.bench.judging import datasheet_by_info
    from efficientllm.report.croissant import About
    from efficientllm.report.site import Submitted, site
    from efficientllm.validity.submission import read
    from efficientllm.validity.validate import validate

    if bool(license_) != bool(creator):
        raise UserError("--license and --creator go together: a description of the data needs both.")
    if output.resolve() == folder.resolve():
        raise UserError(f"--output {output} is the folder of the bundles itself. Give another one.")
    bundles = _bundles(folder)
    submitted = []
    for file in bundles:
        (submission,) = read(file, datasheet_by_info)
        submitted.append(Submitted(file=file.name, data=file.read_bytes(), validation=validate(submission)))
    title, about = folder.resolve().name, None
    if license_:
        today = datetime.now(UTC).date().isoformat()
        about = About(title=title, license=license_, creator=creator, published=today, url=url)
    files = site(submitted, title, about)
    _take_away_what_was(output, files)
    for path, data in files.items():
        _write(output / path, data)
    return output / "index.html"


def _bundles(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.name.endswith(".tar.xz") and path.is_file())
    except OSError as error:
        raise ResultsError(f"{folder} cannot be read: {error.strerror}. Give a folder of bundles.") from error
    if not files:
        raise ResultsError(f"{folder} holds no bundle (*.tar.xz). `efficientllm bundle STUDY -o FILE` makes one.")
    return files


def _take_away_what_was(output: Path, files: Collection[str]) -> None:
    """Remove what an earlier site here had and this one has not: a bundle that is refused now, say."""
    index = output / "index.html"
    if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace"):
        return  # no site of ours: nothing of it is touched but what is written
    earlier = [*output.glob("submissions/*.html"), *output.glob("bundles/*.tar.xz"), output / DESCRIPTION]
    for path in earlier:
        if path.relative_to(output).as_posix() not in files:
            path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}. Give another --output.") from error
