"""Files that are whole or not there, and never overwritten.

    bytes -> .tmp-<random> in the same folder -> fsync -> linked to its name, which fails if the name is taken -> fsync
    of the folder

A kill at any instant leaves a whole file, or none and a temporary one, which nobody reads and a later `sweep` removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from efficientllm.errors import ResultsError

_PREFIX = ".tmp-"
#: Younger temporary files may belong to another process that is writing at this moment.
_SWEEP_AFTER_S = 3600.0
#: What a file system without hard links answers to `link`.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_new(path: Path, data: bytes) -> bool:
    """Write a file that did not exist; return False if it is there with the same bytes already.

    Raises:
        ResultsError: it is there with other bytes, or it cannot be written (a full disk, no permission); then nothing
            partial is left.
    """
    with _temporary(path, data) as temporary:
        try:
            _link(temporary, path)
        except FileExistsError:
            if path.read_bytes() == data:
                return False
            raise ResultsError(f"{path} exists and differs. What is stored is never overwritten.") from None
        sync_folder(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Write a file, in place of one that may be there.

    Raises:
        ResultsError: it cannot be written; then the old one is as it was.
    """
    with _temporary(path, data) as temporary:
        os.replace(temporary, path)
        sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove temporary files that killed writers left more than an hour ago, by the file system's own clock.

    Raises:
        ResultsError: the folder cannot be written.
    """
    with _temporary(folder / "sweep", b"") as now:
        newest_s = now.stat().st_mtime
        for left in folder.glob(f"{_PREFIX}*"):
            # another process may have removed it in the meantime
            with contextlib.suppress(FileNotFoundError):
                if newest_s - left.stat().st_mtime > _SWEEP_AFTER_S:
                    left.unlink()


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Hold `data`, safely on disk, under a temporary name beside `path`; any OSError becomes a ResultsError."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        yield temporary
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written: {error.strerror or error}. Nothing partial was left; free space or mend "
            "permissions, or choose another folder with --results."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # no hard links on this file system: what remains is looking first, with an instant between look and rename
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make a new name durable; where folders cannot be opened (Windows) the system does it in its own time."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
