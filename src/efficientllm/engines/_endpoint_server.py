"""A server that is measured: started from a command and ended with all its processes, or found by its port."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from efficientllm import catalog
from efficientllm.engines._endpoint_client import Endpoint
from efficientllm.engines._endpoint_guard import PATIENCE_S
from efficientllm.engines._endpoint_stream import EndpointError, quoted
from efficientllm.errors import UserError

_POLL_S = 0.1
_ASK_S = 5.0
_PLACEHOLDERS = ("{model}", "{port}", "{dtype}")


class LaunchedServer:
    """A server of ours; also a context manager that ends it with its whole process group.

    Attributes:
        url: where it listens.
    """

    def __init__(self, command: str, *, model: str, dtype: str) -> None:
        """Start it; `wait` then waits until it answers.

        Raises:
            UserError: the command is empty or has a placeholder that we do not know.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.words = fill_command(command, model=model, port=self.port, dtype=dtype)
        self._folder = tempfile.TemporaryDirectory(prefix="efficientllm-server-")
        self._output = Path(self._folder.name, "output.txt")
        places = [str(catalog.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._output.open("wb") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "efficientllm.engines._endpoint_guard", *self.words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            )

    def wait(self, limit_s: float) -> None:
        """Wait until it answers `/health` or `/v1/models`.

        Raises:
            EndpointError: it ended, or did not answer in time; the message quotes its last words.
        """
        end_s = time.perf_counter() + limit_s
        endpoint = Endpoint(self.url, stall_s=_ASK_S)
        while not _answers(endpoint):
            code = self._guard.poll()
            if code is not None:
                raise EndpointError(f"the server ended with code {code} before it answered: {self.last_words()}")
            if time.perf_counter() > end_s:
                last = self.last_words()
                raise EndpointError(f"the server did not answer at {self.url} within {limit_s:g} s: {last}")
            time.sleep(_POLL_S)

    def pids(self) -> tuple[int, ...]:
        """Return the server's processes, without the one that guards them."""
        return tuple(pid for pid in tree(self._guard.pid) if pid != self._guard.pid)

    def last_words(self) -> str:
        """Return the last line that it wrote, quoted; its whole output lies in a file until it is stopped."""
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return quoted(lines[-1]) if lines else "it wrote nothing"

    def stop(self) -> None:
        """End it and all that it started."""
        import psutil

        known = [psutil.Process(pid) for pid in tree(self._guard.pid) if psutil.pid_exists(pid)]
        if self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(2 * PATIENCE_S)
        for process in known:  # one that left the group, or a guard that hangs
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._guard.wait()
        self._folder.cleanup()

    def __enter__(self) -> LaunchedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Attributes:
        pids: its processes, if they are on this machine.
        why_not: why its processes are not known.
    """

    pids: tuple[int, ...] = ()
    why_not: str = ""


def find_place(url: str) -> Place:
    """Return the processes that listen on an address of this machine, or why they are not known."""
    import psutil

    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if not _is_here(host):
        return Place(why_not=f"the server runs on another machine ({host}), whose meters are not read")
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port]
    except (psutil.AccessDenied, OSError):
        return Place(why_not=f"this user may not see which process listens on port {port}")
    owners = {c.pid for c in listening if c.pid}
    if not owners:
        return Place(
            why_not=f"no process that this user may see listens on port {port}: another user's, or a container's"
        )
    return Place(pids=tuple(sorted({pid for owner in owners for pid in tree(owner)})))


def fill_command(command: str, *, model: str, port: int, dtype: str) -> list[str]:
    """Return a command's words with its placeholders filled.

    Raises:
        UserError: it is empty or not well quoted, lacks {port}, or names {model} and there is none.

    >>> fill_command("serve '{model}' --port {port}", model="a b", port=81, dtype="float32")
    ['serve', 'a b', '--port', '81']
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"command {command!r}: {error}.") from error
    if not words or "{port}" not in command:
        raise UserError(f"command {command!r}: has no {{port}}. Placeholders: {', '.join(_PLACEHOLDERS)}.")
    if "{model}" in command and not model:
        raise UserError(f"command {command!r} names {{model}}, but there is none: give model, or a stage with `from`.")
    values = {"{model}": model, "{port}": str(port), "{dtype}": dtype}
    for key, value in values.items():
        words = [word.replace(key, value) for word in words]
    return words


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def tree(pid: int) -> tuple[int, ...]:
    """Return a process and all that come from it, empty if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return (pid, *(child.pid for child in process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return ()


def _answers(endpoint: Endpoint) -> bool:
    for path in ("/health", "/v1/models"):
        with contextlib.suppress(EndpointError):
            endpoint.get(path)
            return True
    return False


def _is_here(host: str) -> bool:
    import psutil

    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for address in addresses}
    return any(one.startswith("127.") or one == "::1" or one in own for one in found)
