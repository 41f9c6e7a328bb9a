"""One window of a served load: times of requests from their streams, tokens that arrived, and what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from efficientllm.data.prepare import Prepared
from efficientllm.engines._endpoint_client import CountTokens, Endpoint
from efficientllm.engines._endpoint_load import LoadRun, tokens_within
from efficientllm.engines._endpoint_server import Place
from efficientllm.engines._endpoint_stream import Reply
from efficientllm.errors import Unsupported
from efficientllm.records.serve_settings import Load, ServeSettings
from efficientllm.records.window import ELSEWHERE, Work
from efficientllm.stats.percentile import percentile
from efficientllm.workloads._contract import OpenWindow, Recorder

_CLIENT_BUSY = 0.7


class TooManyFailed(Unsupported):
    """So many requests failed that the others stand for nothing."""

    outcome = "invalid"


@dataclass(kw_only=True)
class Seen:
    """What one load showed.

    Attributes:
        ttft_s, tpot_s, request_s: a number for each request that ended well, where its stream tells it.
        gaps_s: times between arrivals of all of them.
        failed: reason -> requests.
        early: requests that ended before they had their tokens.
    """

    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    request_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    arrivals: int = 0
    counted: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    early: int = 0

    @property
    def num_failed(self) -> int:
        """Requests that failed."""
        return sum(self.failed.values())


@dataclass(frozen=True)
class Server:
    """A server under measurement: how to ask it, where it runs, and whom to tell."""

    endpoint: Endpoint
    place: Place
    settings: ServeSettings
    recorder: Recorder


def measure_load(
    server: Server,
    prompts: Sequence[str],
    load: Load,
    *,
    seed: int,
    name: str = "serve",
    enough: Callable[[Seen], bool] = lambda _: False,
) -> Seen:
    """Put a load on a server and measure it in a window of this name.

    Series, a value for each request: `request_s`, `ttft_s`, `tpot_s`, `gap_max_s`. Figures: `generated_tokens`,
    `ended_requests`, `failed_requests`, `early_ends`, percentiles of the gaps between arrivals, and what the client
    itself took. `enough` may end a window before all its requests have ended.
    """
    settings, recorder, seen = server.settings, server.recorder, Seen()
    work = Work(tokens=load.new_tokens, samples=1)
    warm_requests = max(settings.warmup_requests, load.concurrency)

    def ask(prompt: str, reply: Reply) -> object:
        return server.endpoint.ask(prompt, load.new_tokens, reply)

    run = LoadRun(ask, prompts, load.concurrency, load.per_minute / 60.0, seed, drain_s=settings.stall_s)
    with recorder.attempt(name, load.coordinates()):
        with run:
            with recorder.phase("warmup"):
                run.wait_for(warm_requests, settings.window_limit_s)
            with recorder.window(name, work=work, coordinates=load.coordinates(), adaptive=False) as window:
                begin_s, own_s = time.perf_counter(), time.process_time()
                _elsewhere(window, server.place)
                for reply in run.measured(run.next_index(), settings.requests, settings.window_limit_s):
                    _add(seen, reply, load, window, server.endpoint.count_tokens)
                    recorder.progress(len(seen.request_s) + seen.num_failed, settings.requests, "requests")
                    if enough(seen):
                        break
                end_s = time.perf_counter()
                busy = (time.process_time() - own_s) / (end_s - begin_s)
                _tell(seen, window, busy)
                _refuse(seen, settings)
        window.figure("generated_tokens", tokens_within(run.replies, begin_s, end_s))
        _warn(seen, busy, load, recorder)
    return seen


def make_prompts(prepared: Prepared, tokens: int, count: int, seed: int) -> list[str]:
    """Return held-out text in pieces of so many of our tokens, from places at random.

    Two prompts seldom begin alike, so that a server's cache of prefixes serves none of them.
    """
    text = np.asarray(prepared.heldout.tokens)
    starts = np.random.default_rng(seed).integers(0, len(text), count)
    pieces = (np.take(text, np.arange(start, start + tokens), mode="wrap") for start in starts)
    return [prepared.tokenizer.decode(piece.tolist()).strip("\ufffd") or "The" for piece in pieces]


def tpot_of(reply: Reply, count_tokens: CountTokens | None) -> float | None:
    """Return seconds for each token after the first arrival, from the stream's own times; None where it cannot be told.

    The first arrival holds one token where there are as many arrivals as tokens; else our tokenizer counts it.
    """
    first = 1
    if reply.tokens != len(reply.at_s):
        if count_tokens is None:
            return None
        first = max(1, count_tokens(reply.pieces[0]))
    later = reply.tokens - first
    return (reply.at_s[-1] - reply.at_s[0]) / later if later > 0 and len(reply.at_s) > 1 else None


def _add(seen: Seen, reply: Reply, load: Load, window: OpenWindow, count_tokens: CountTokens | None) -> None:
    if reply.error:
        seen.failed[reply.error] = seen.failed.get(reply.error, 0) + 1
        return
    told = {"request_s": reply.end_s - reply.intended_s, "ttft_s": reply.at_s[0] - reply.intended_s}
    tpot_s = tpot_of(reply, count_tokens)
    gaps_s = [b - a for a, b in zip(reply.at_s, reply.at_s[1:], strict=False)]
    told |= {"tpot_s": tpot_s} if tpot_s is not None else {}
    told |= {"gap_max_s": max(gaps_s)} if gaps_s else {}
    for name, value in told.items():
        window.value(name, "s", value)
    seen.request_s.append(told["request_s"])
    seen.ttft_s.append(told["ttft_s"])
    seen.tpot_s += [tpot_s] if tpot_s is not None else []
    seen.gaps_s += gaps_s
    seen.arrivals += len(reply.at_s)
    seen.tokens.append(reply.tokens)
    seen.prompt_tokens += [reply.prompt_tokens] if reply.prompt_tokens else []
    seen.counted.add(reply.counted_by)
    seen.early += reply.tokens < load.new_tokens


def _tell(seen: Seen, window: OpenWindow, busy: float) -> None:
    window.figure("ended_requests", len(seen.request_s))
    window.figure("failed_requests", seen.num_failed)
    window.figure("early_ends", seen.early)
    window.figure("client_busy_ratio", busy)
    if seen.arrivals:
        window.figure("new_tokens_mean", sum(seen.tokens) / len(seen.tokens))
        window.figure("arrival_tokens_mean", sum(seen.tokens) / seen.arrivals)
    if seen.prompt_tokens:
        window.figure("prompt_tokens_mean", sum(seen.prompt_tokens) / len(seen.prompt_tokens))
    else:
        window.absent("prompt_tokens_mean", "the server does not say how many tokens a prompt had")
    if not seen.tpot_s:
        window.absent("tpot_s", "no reply came in more than one piece, or its tokens could not be counted")
    for percent in (50, 95, 99):
        told = percentile(seen.gaps_s, percent)
        if told.value is None:
            window.absent(f"gap_p{percent}_s", told.absent)
        else:
            window.figure(f"gap_p{percent}_s", told.value)


def _refuse(seen: Seen, settings: ServeSettings) -> None:
    total = len(seen.request_s) + seen.num_failed
    if total and seen.num_failed > settings.failed_most * total:
        most = max(seen.failed, key=lambda reason: seen.failed[reason])
        raise TooManyFailed(f"{seen.num_failed} of {total} requests failed, most because: {most}")


def _elsewhere(window: OpenWindow, place: Place) -> None:
    if place.why_not:
        window.absent(ELSEWHERE, place.why_not)


def _warn(seen: Seen, busy: float, load: Load, recorder: Recorder) -> None:
    """Tell the reader what makes the times another thing than he may think."""
    where = " ".join(f"{key}={value}" for key, value in load.coordinates().items())
    if seen.failed:
        text = "; ".join(f"{count} × {reason}" for reason, count in seen.failed.items())
        recorder.caution("failed_requests", f"{where}: {text}")
    if seen.early:
        text = f"{where}: {seen.early} of {len(seen.request_s)} replies ended before their {load.new_tokens} tokens"
        recorder.caution("early_ends", text)
    each = sum(seen.tokens) / seen.arrivals if seen.arrivals else 0.0
    if each > 1.02:
        text = f"{where}: {each:.2f} tokens came with each piece: gaps are between pieces, TPOT is a mean over a reply"
        recorder.caution("several_tokens_a_piece", text)
    if "usage" not in seen.counted and seen.request_s:
        recorder.caution("tokens_counted_here", f"{where}: the server gives no usage; our tokenizer counted tokens")
    if busy > _CLIENT_BUSY:
        text = f"{where}: the client was busy for {busy:.0%} of the time: it may have set the pace"
        recorder.caution("client_bound", text)
