"""The parent's side of a sampler: start it, tell it what to watch, stop it and take what it saw."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from efficientllm import catalog
from efficientllm.devices._contract import Device
from efficientllm.errors import UserError
from efficientllm.meters.sampler import SamplerRequest
from efficientllm.meters.samples import Samples, read_samples

_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 10.0


class SamplerProcess:
    """A running sampler; also a context manager that stops it.

    Made by `SamplerProcess.start`. It ends by itself when this process ends, however it ends.

    Attributes:
        start_s: seconds that its start took.
    """

    def __init__(self, child: subprocess.Popen[str], path: Path, folder: Path | None, rank: int, index: int) -> None:
        self._child, self._path, self._folder = child, path, folder
        self._rank, self._index = rank, index
        self._offset_s, self._error_s = 0.0, 0.0
        self._samples: Samples | None = None
        self.start_s = 0.0

    @classmethod
    def start(
        cls,
        device: Device,
        pids: Collection[int],
        *,
        interval_s: float = 0.05,
        meters: Sequence[str] = (),
        path: Path | None = None,
        rank: int = 0,
        index: int = 0,
    ) -> SamplerProcess:
        """Start a sampler and wait until it has taken its first readings.

        Args:
            device: what to watch; the sampler opens it anew by its kind and address.
            pids: the processes to watch.
            interval_s: the protocol's pause between two readings.
            meters: names of meters, or files of a user's own; empty means all of the folder.
            path: where to keep the sampler's file; None keeps it only until `stop`.
            rank: rank of the watched process, written into the series.
            index: index of its device, written into the series.

        Raises:
            UserError: the sampler did not start; the message quotes its last words.
        """
        begin_s = time.perf_counter()
        folder = Path(tempfile.mkdtemp(prefix="efficientllm-sampler-")) if path is None else None
        path = path or Path(folder or ".", "samples.txt")
        request = SamplerRequest(
            device=device.kind,
            address=device.address,
            pids=tuple(pids),
            interval_s=interval_s,
            path=str(path),
            meters=tuple(meters),
        )
        with open(_errors_path(path), "wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "efficientllm.meters.sampler", msgspec.json.encode(request).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(),
            )
        process = cls(child, path, folder, rank, index)
        try:
            process._greet()
        except BaseException:
            process._kill()
            process._tidy()
            raise
        process.start_s = time.perf_counter() - begin_s
        return process

    def add_pid(self, pid: int) -> None:
        """Watch one more process from now on."""
        self._tell(f"pid {pid}")

    def stop(self) -> Samples:
        """Take the last readings, end the sampler and return all that it saw; a second call returns the same.

        A sampler that died earlier gives what it had written; `Samples.ended` then says how it ended.
        """
        if self._samples is None:
            self._tell("stop")
            with contextlib.suppress(BrokenPipeError):  # it died before: closing flushes what it never read
                self._stream_in().close()
            try:
                code = self._child.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                code = self._kill()
            self._samples = self._read(code)
            self._tidy()
        return self._samples

    def __enter__(self) -> SamplerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The sampler's process id, which is no foreign process to whoever counts them."""
        return self._child.pid

    def _greet(self) -> None:
        """Wait for `ready`, then compare clocks."""
        limit = threading.Timer(_START_LIMIT_S, self._child.kill)
        limit.start()
        try:
            if self._hear() != "ready":
                raise UserError(f"the sampler did not start: {self._last_words()}")
            before_s = time.perf_counter()
            self._tell("clock")
            there_s = float(self._hear())
            after_s = time.perf_counter()
        finally:
            limit.cancel()
        self._error_s = (after_s - before_s) / 2
        offset_s = there_s - (before_s + after_s) / 2
        self._offset_s = offset_s if abs(offset_s) > self._error_s else 0.0

    def _read(self, code: int) -> Samples:
        try:
            samples = read_samples(self._path, rank=self._rank, index=self._index, offset_s=self._offset_s)
        except (OSError, ValueError) as error:
            raise UserError(f"the sampler left nothing to read: {error}; {self._last_words()}") from error
        ended = f"{samples.ended} (exit code {code}) {self._last_words()}".strip() if samples.ended else ""
        return replace(samples, ended=ended, clock_offset_s=self._offset_s, clock_error_s=self._error_s)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is gone; `stop` reports how
            self._stream_in().write(line + "\n")
            self._stream_in().flush()

    def _hear(self) -> str:
        assert self._child.stdout is not None  # asked for when it was started
        return self._child.stdout.readline().strip()

    def _stream_in(self) -> IO[str]:
        assert self._child.stdin is not None  # asked for when it was started
        return self._child.stdin

    def _kill(self) -> int:
        self._child.kill()
        return self._child.wait()

    def _last_words(self) -> str:
        lines = _errors_path(self._path).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _tidy(self) -> None:
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        elif not self._last_words():
            _errors_path(self._path).unlink()


def _errors_path(path: Path) -> Path:
    return path.with_name(path.name + ".errors")


def _environment() -> dict[str, str]:
    """Return this environment with the package's own place first, since `-P` leaves the current folder out."""
    places = [str(catalog.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
