"""Puts a load on a server: so many requests at once, or arrivals at random times.

    warm-up │ window: the first `requests` that are sent in it │ until the last of them has ended
    ────────┴──── further requests keep the load up, unmeasured ─┴── drained

What is measured neither begins on an idle server nor ends on one that empties. In an open loop a request's time
counts from when it was to arrive, whether or not the client got to it: a server that stalls is not forgiven those
that had to wait (coordinated omission).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from efficientllm.engines._endpoint_stream import Reply, empty_reply

#: (prompt, reply to be filled) -> nothing; whatever goes wrong stands in the reply.
Ask = Callable[[str, Reply], object]

#: An open loop has at most so many requests under way; those beyond wait here, and their time runs.
MOST_UNDER_WAY = 512
_POLL_S = 0.05
#: Threads do not sleep on a failing server: without a pause a closed loop would send thousands a second.
_AFTER_FAILURE_S = 0.05


def poisson_arrivals(per_second: float, seed: int) -> Iterator[float]:
    """Yield the times in seconds, from 0, of arrivals at random: exponential gaps, the same for the same seed.

    >>> times = poisson_arrivals(100.0, seed=1)
    >>> last = [next(times) for _ in range(10_000)][-1]
    >>> 90 < last < 110
    True
    """
    draw, at_s = np.random.default_rng(seed), 0.0
    while True:
        at_s += float(draw.exponential(1.0 / per_second))
        yield at_s


@dataclass
class LoadRun:
    """A load that is put on a server by threads of its own; also a context manager that ends it.

    Attributes:
        ask: sends one request.
        prompts: taken in turn.
        concurrency: requests under way, in a closed loop.
        per_second: arrivals, in an open loop.
        seed: of the arrivals.
        drain_s: longest wait at the end for what is under way.
        replies: all that have ended, in the order of their ends.
    """

    ask: Ask
    prompts: Sequence[str]
    concurrency: int = 0
    per_second: float = 0.0
    seed: int = 0
    drain_s: float = 60.0
    replies: list[Reply] = field(default_factory=list)
    _ended: queue.SimpleQueue[Reply] = field(default_factory=queue.SimpleQueue)
    _waiting: queue.SimpleQueue[Reply | None] = field(default_factory=queue.SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0
    _under_way: dict[int, Reply] = field(default_factory=dict)

    def __enter__(self) -> LoadRun:
        if self.concurrency:
            for _ in range(self.concurrency):
                self._spawn(self._closed_loop)
        else:
            self._spawn(self._arrivals)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        end_s = time.perf_counter() + self.drain_s
        while self._under_way and time.perf_counter() < end_s:
            self._take(_POLL_S)
        self._take(0.0)

    def next_index(self) -> int:
        """Return the number that the next request will have."""
        with self._lock:
            return self._sent

    def wait_for(self, count: int, limit_s: float) -> None:
        """Wait until so many requests have ended, or the time is over."""
        end_s = time.perf_counter() + limit_s
        while len(self.replies) < count and time.perf_counter() < end_s:
            self._take(_POLL_S)

    def measured(self, first: int, count: int, limit_s: float) -> Iterator[Reply]:
        """Yield the replies to `count` requests from `first` on, as they end; those that do not in time last, failed.

        Their arrivals until then stand in them.
        """
        end_s = time.perf_counter() + limit_s
        missing = set(range(first, first + count))
        seen = 0
        while missing and time.perf_counter() < end_s:
            self._take(_POLL_S)
            for reply in self.replies[seen:]:
                if reply.index in missing:
                    missing.discard(reply.index)
                    yield reply
            seen = len(self.replies)
        with self._lock:
            late = [self._under_way.get(index) for index in sorted(missing)]
        for index, known in zip(sorted(missing), late, strict=True):
            reply = empty_reply(index, known.intended_s if known else 0.0)
            reply.error = f"it had not ended when the window's {limit_s:g} s were over"
            yield reply

    def _take(self, wait_s: float) -> None:
        """Move what has ended into `replies`; wait so long for a first one."""
        try:
            self.replies.append(self._ended.get(timeout=wait_s) if wait_s else self._ended.get_nowait())
            while True:
                self.replies.append(self._ended.get_nowait())
        except queue.Empty:
            return

    def _closed_loop(self) -> None:
        while not self._stop.is_set():
            self._send(self._next(0.0))

    def _arrivals(self) -> None:
        """Hand over each request at its time, to a thread that is free, or to a new one."""
        begin_s, threads = time.perf_counter(), 0
        for at_s in poisson_arrivals(self.per_second, self.seed):
            if self._stop.wait(max(0.0, begin_s + at_s - time.perf_counter())):
                break
            reply = self._next(begin_s + at_s)
            if len(self._under_way) > threads and threads < MOST_UNDER_WAY:
                self._spawn(self._worker)
                threads += 1
            self._waiting.put(reply)
        for _ in range(threads):
            self._waiting.put(None)

    def _worker(self) -> None:
        while (reply := self._waiting.get()) is not None:
            if self._stop.is_set():  # it waited here until the end: nobody measures it
                self._forget(reply)
            else:
                self._send(reply)

    def _next(self, intended_s: float) -> Reply:
        with self._lock:
            reply = empty_reply(self._sent, intended_s)
            self._under_way[reply.index] = reply
            self._sent += 1
            return reply

    def _send(self, reply: Reply) -> None:
        self.ask(self.prompts[reply.index % len(self.prompts)], reply)
        self._ended.put(reply)
        self._forget(reply)
        if reply.error and self.concurrency:
            self._stop.wait(_AFTER_FAILURE_S)

    def _forget(self, reply: Reply) -> None:
        with self._lock:
            self._under_way.pop(reply.index, None)

    def _spawn(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()


def tokens_within(replies: Sequence[Reply], begin_s: float, end_s: float) -> float:
    """Return the tokens that arrived in a span of time.

    A reply whose arrivals lie partly outside counts by its share of arrivals: which of its tokens came with which
    arrival a stream does not say.
    """
    tokens = 0.0
    for reply in replies:
        if reply.at_s and reply.tokens:
            inside = sum(begin_s <= at <= end_s for at in reply.at_s)
            tokens += reply.tokens * inside / len(reply.at_s)
    return tokens
