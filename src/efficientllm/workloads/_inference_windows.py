"""The windows of inference: a prompt alone, one further token, and whole requests, each measured for itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from efficientllm.data.prepare import Prepared
from efficientllm.devices._contract import Device
from efficientllm.engines._contract import Engine
from efficientllm.records.grid import Generation, Grid
from efficientllm.records.window import Work
from efficientllm.workloads._contract import Job, OpenWindow

#: Decode goes so many tokens beyond the context, then the cache is rewound to it: the measured context stays put.
_DECODE_RUN_TOKENS = 64

#: A window keeps the times of so many tokens at most: ten times what its 99th percentile needs.
_MOST_TOKEN_TIMES = 10_000


def prefill(job: Job, engine: Engine, prepared: Prepared, grid: Grid) -> None:
    """Time the prompt alone: from its tokens on the device to the logits of its last position (TTFT)."""
    engine.begin(grid.batch, grid.tokens)  # first of all: what cannot fit, or is too long, is known here
    prompt_BT = prompt(prepared, grid, job.device)

    def once() -> None:
        engine.rewind(0)
        engine.prefill(prompt_BT)

    job.recorder.warm_up(once)
    work = engine.prefill_work(grid.batch, grid.tokens)
    with job.recorder.window("prefill", work=work, coordinates=grid.coordinates()) as window:
        while window.unfinished():
            with window.step():
                once()


def decode(job: Job, engine: Engine, prepared: Prepared, grid: Grid) -> None:
    """Time one further token a sequence, greedy, with the context in the cache (TPOT)."""
    engine.begin(grid.batch, grid.tokens + _DECODE_RUN_TOKENS)
    logits_BV = engine.prefill(prompt(prepared, grid, job.device))
    engine.mark()
    first_B = logits_BV.argmax(-1)
    tokens_B, run_tokens = first_B, 0

    def once() -> None:
        nonlocal tokens_B, run_tokens
        tokens_B = engine.decode(tokens_B).argmax(-1)
        run_tokens += 1

    def rewind_at_end() -> None:
        nonlocal tokens_B, run_tokens
        if run_tokens >= _DECODE_RUN_TOKENS:
            engine.rewind(grid.tokens)
            tokens_B, run_tokens = first_B, 0

    def warm() -> None:
        once()
        rewind_at_end()

    job.recorder.warm_up(warm)
    work = engine.decode_work(grid.batch, grid.tokens + _DECODE_RUN_TOKENS // 2)
    with job.recorder.window("decode", work=work, coordinates=grid.coordinates()) as window:
        while window.unfinished():
            with window.step():
                once()
            rewind_at_end()


def generate(job: Job, engine: Engine, prepared: Prepared, grid: Generation) -> None:
    """Time whole requests: a batch of prompts in, all tokens of the answers out, greedy.

    One step is one batch of requests; its work is that of the prompt and of every token after the first. The first
    token's time and the times between tokens are series beside it, by marks that wait for nothing.
    """
    engine.begin(grid.batch, grid.tokens + grid.new_tokens)
    prompt_BT = prompt(prepared, grid, job.device)
    marks = _Marks(job.device)

    def once() -> None:
        engine.rewind(0)
        marks.begin()
        tokens_B = engine.prefill(prompt_BT).argmax(-1)
        marks.add()
        for _ in range(grid.new_tokens - 1):
            tokens_B = engine.decode(tokens_B).argmax(-1)
            marks.add()

    job.recorder.warm_up(once)
    work = request_work(engine, grid)
    with job.recorder.window("generate", work=work, coordinates=grid.coordinates()) as window:
        told = 0
        while window.unfinished():
            with window.step():
                once()
            if told < _MOST_TOKEN_TIMES:
                told += _tell(window, marks.between_s())
        if grid.new_tokens == 1:
            window.absent("inter_token_s", "one token has none after it")


def request_work(engine: Engine, grid: Generation) -> Work:
    """Return the work of a batch of whole requests: its prompt and, one after the other, the tokens after the first.

    Its tokens are those that come out, its working set is the largest of its parts'.
    """
    contexts = range(grid.tokens, grid.tokens + grid.new_tokens - 1)
    parts = [engine.prefill_work(grid.batch, grid.tokens), *(engine.decode_work(grid.batch, at) for at in contexts)]
    return Work(
        tokens=grid.batch * grid.new_tokens,
        samples=grid.batch,
        model_flops=sum(part.model_flops for part in parts),
        moved_bytes=sum(part.moved_bytes for part in parts),
        working_set_bytes=max(part.working_set_bytes for part in parts),
    )


class _Marks:
    """Moments on the way through a request, read once it has ended.

    A processor is done when a call returns, so the clock is read. CUDA's calls return early: there an event is put
    into the stream, which the device reaches in its own time; waiting for it would slow what is measured.
    """

    def __init__(self, device: Device) -> None:
        self._where = device.torch_device()
        self._on_cuda = torch.device(self._where).type == "cuda"
        self._marks: list[Any] = []

    def begin(self) -> None:
        """Start over, from now."""
        self._marks.clear()
        self.add()

    def add(self) -> None:
        """Mark this moment, on CUDA that at which the device will have done all that was asked of it so far."""
        if not self._on_cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._where))
        self._marks.append(event)

    def between_s(self) -> list[float]:
        """Return the seconds between neighbours; on CUDA the device must have reached the last one."""
        if self._on_cuda:
            return [one.elapsed_time(other) / 1000 for one, other in pairwise(self._marks)]
        return [other - one for one, other in pairwise(self._marks)]


def _tell(window: OpenWindow, between_s: Sequence[float]) -> int:
    """Append a request's times to the window's series; return how many."""
    first_s, *others_s = between_s
    window.value("ttft_s", "s", first_s)
    for one_s in others_s:
        window.value("inter_token_s", "s", one_s)
    return len(between_s)


def prompt(prepared: Prepared, grid: Grid, device: Device) -> torch.Tensor:
    """Return held-out text as prompts `[batch, tokens]`, each row from another place, repeated where it runs out."""
    wanted = grid.batch * grid.tokens
    tokens = np.resize(prepared.heldout.tokens[:wanted], wanted).astype(np.int64)
    return torch.from_numpy(tokens.reshape(grid.batch, grid.tokens)).to(device.torch_device())
