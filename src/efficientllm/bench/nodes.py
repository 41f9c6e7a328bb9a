"""Several machines that run one trial together: the first holds the study, the others join it and do as they are told.

    first   efficientllm run RECIPE --nodes 2 --rendezvous HOST:PORT
    others  efficientllm join HOST:PORT

    follower ── Hello (its devices) ──►  first       once
             ◄── Start (a job) ────────               for each trial of several ranks: torchrun on either side
             ──── Ended (how) ────────►               when its ranks have ended
             ◄── Stop ─────────────────               the trial is over, whatever its ranks still do

One connection for each follower, kept open: whoever dies closes it, and the other side ends what it does. The ranks
themselves meet through torchrun, on a port of the trial's own.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType

import msgspec

from efficientllm import __version__
from efficientllm.bench.job import JobFile, Nodes, ranks_of
from efficientllm.errors import UserError
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.trial import Trial

#: A peer whose machine has gone without a word is noticed after about so many seconds of silence.
_SILENCE_S, _ASK_S, _ASKS = 10, 5, 3
#: How long the first machine waits for the others to join, and they for it to listen.
PATIENCE_S = 600.0


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A follower presents itself."""

    version: str
    devices: tuple[DeviceInfo, ...]


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The follower's part of a trial."""

    job: JobFile


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How a follower's ranks ended."""

    outcome: str
    reason: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The trial is over; `study` says that all of it is."""

    study: bool = False


Message = Hello | Start | Ended | Stop
_decoder = msgspec.json.Decoder(Message)


class PeerGone(ConnectionError):
    """The other side has closed the connection, or died."""


class Connection:
    """Messages over a socket, one a line."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._buffer = link, b""
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", _SILENCE_S), ("TCP_KEEPINTVL", _ASK_S), ("TCP_KEEPCNT", _ASKS)):
            if hasattr(socket, name):  # not on every system
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            PeerGone: nobody is there.
        """
        try:
            self._link.sendall(msgspec.json.encode(message) + b"\n")
        except OSError as error:
            raise PeerGone(str(error)) from error

    def receive(self, wait_s: float) -> Message | None:
        """Return the next message, None if none came in time.

        Raises:
            PeerGone: none will come.
        """
        end_s = time.perf_counter() + wait_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._link], [], [], max(0.0, end_s - time.perf_counter()))
            if not ready:
                return None
            try:
                data = self._link.recv(1 << 16)
            except OSError as error:
                raise PeerGone(str(error)) from error
            if not data:
                raise PeerGone("the connection was closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = _decoder.decode(line)
        return message

    def close(self) -> None:
        """Close the socket."""
        self._link.close()


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        UserError: it is none.

    >>> parse_address("10.0.0.1:29400")
    ('10.0.0.1', 29400)
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{text!r} is no HOST:PORT, such as 10.0.0.1:29400.")
    return host, int(port)


class FirstNode:
    """The first machine's side; also a context manager that sends the others home.

    Args:
        address: where it listens, an address of this machine that the others reach.
        count: machines in all, this one included.

    Raises:
        UserError: it cannot listen there.
    """

    def __init__(self, address: str, count: int) -> None:
        self.host, port = parse_address(address)
        self.count, self.devices = count, list[tuple[DeviceInfo, ...]]()
        self._others: list[Connection] = []
        try:
            self._door = socket.create_server((self.host, port))
        except OSError as error:
            raise UserError(f"cannot listen at {address}: {error}. Name an address of this machine.") from error

    def gather(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until all others have joined.

        Raises:
            UserError: they did not, or one runs another version.
        """
        end_s = time.perf_counter() + patience_s
        while len(self._others) < self.count - 1:
            self._door.settimeout(max(0.1, end_s - time.perf_counter()))
            try:
                link, _ = self._door.accept()
            except TimeoutError as error:
                came = len(self._others) + 1
                raise UserError(f"{came} of {self.count} nodes are there after {patience_s:.0f} s.") from error
            other = Connection(link)
            hello = other.receive(_SILENCE_S)
            if not isinstance(hello, Hello) or hello.version != __version__:
                found = hello.version if isinstance(hello, Hello) else "something else"
                raise UserError(f"a node runs efficientllm {found}, this one {__version__}. Install the same.")
            self._others.append(other)
            self.devices.append(hello.devices)

    def reason_against(self, trial: Trial) -> str:
        """Return why a trial cannot run over these machines, or an empty string."""
        ranks = ranks_of(trial)
        if ranks > 1 and ranks % self.count:
            return f"ranks {ranks} do not divide over {self.count} nodes"
        few = min((len(devices) for devices in self.devices), default=ranks)
        alone = all(one.kind == "cpu" for devices in self.devices for one in devices)
        if ranks > 1 and not alone and ranks // self.count > few:
            return f"ranks {ranks}, but a node has {few} device(s) for {ranks // self.count} of them"
        return ""

    def devices_of(self, trial: Trial) -> list[DeviceInfo]:
        """Return the other machines' devices that a trial runs on."""
        local = ranks_of(trial) // self.count
        return [one for devices in self.devices for one in devices[:local]] if ranks_of(trial) > 1 else []

    def start(self, job: JobFile) -> JobFile:
        """Give the others their part of a trial, and return this machine's."""
        with socket.create_server((self.host, 0)) as free:
            port = free.getsockname()[1]
        parts = [
            msgspec.structs.replace(job, nodes=Nodes(number=number, count=self.count, host=self.host, port=port))
            for number in range(self.count)
        ]
        for other, part in zip(self._others, parts[1:], strict=True):
            other.send(Start(job=part))
        return parts[0]

    def failure(self, wait_s: float = 0.0) -> Ended | None:
        """Return what has gone wrong elsewhere, None if nothing has."""
        for number, other in enumerate(self._others, 1):
            try:
                message = other.receive(wait_s)
            except PeerGone as gone:
                return Ended(outcome="crashed", reason=f"node {number} was lost: {gone}")
            if isinstance(message, Ended) and message.outcome != "ok":
                return Ended(outcome=message.outcome, reason=f"node {number}: {message.reason}")
        return None

    def finish(self) -> None:
        """Tell the others that the trial is over, and wait until they have done with it."""
        for other in self._others:
            try:
                other.send(Stop())
                end_s = time.perf_counter() + 2 * _SILENCE_S
                while time.perf_counter() < end_s and not isinstance(other.receive(1.0), Stop):
                    pass
            except PeerGone:  # the next trial will say so
                continue

    def __enter__(self) -> FirstNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for other in self._others:
            with contextlib.suppress(PeerGone):
                other.send(Stop(study=True))
            other.close()
        self._door.close()


def join_first(address: str, devices: Sequence[DeviceInfo], patience_s: float = PATIENCE_S) -> Connection:
    """Return the connection of a follower, once the first machine listens.

    Raises:
        UserError: it never did.
    """
    host, port = parse_address(address)
    end_s = time.perf_counter() + patience_s
    while True:
        try:
            link = socket.create_connection((host, port), timeout=_SILENCE_S)
        except OSError as error:
            if time.perf_counter() > end_s:
                raise UserError(f"nobody listens at {address}: {error}. Start `efficientllm run` there.") from error
            time.sleep(0.5)
            continue
        link.settimeout(None)
        connection = Connection(link)
        connection.send(Hello(version=__version__, devices=tuple(devices)))
        return connection
