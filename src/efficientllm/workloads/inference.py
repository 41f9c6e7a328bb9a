"""Inference: prefill and decode apart, each in windows of its own over a grid, then held-out quality."""

from __future__ import annotations

import numpy as np
import torch

from efficientllm import registry
from efficientllm.data.prepare import Prepared, prepare
from efficientllm.devices._contract import Device
from efficientllm.engines._contract import Engine, EngineEntry
from efficientllm.records.settings import Grid, InferenceSettings
from efficientllm.workloads import judging
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards

#: Decode goes so many tokens beyond the context, then the cache is rewound to it: the measured context stays put.
_DECODE_RUN_TOKENS = 64


def run(job: Job) -> None:
    """Measure a checkpoint, or random weights where no parent left one.

    Windows: one `prefill` and one `decode` for each point of their grids, then `quality`, which is absent with its
    reason for random weights.
    """
    settings, recorder = job.trial.settings, job.recorder
    assert isinstance(settings, InferenceSettings)
    device = job.device
    with recorder.phase("data"):
        prepared = prepare(settings, job.cache, None)
    recorder.data(prepared.facts)
    for name, value in prepared.sanity.items():
        recorder.figure(f"{name}_bits_per_byte", value)
    recorder.baseline_memory()
    with recorder.phase("load"):
        try:
            engine = _open_engine(job, settings, prepared)
        except Exception as error:
            if device.is_out_of_memory(error) and judging.judge_streamed(job, prepared, error):
                return
            raise
    copy_cards(recorder, settings)
    recorder.model(engine.facts())
    points = [("prefill", grid) for grid in settings.prefill] + [("decode", grid) for grid in settings.decode]
    for i, (name, grid) in enumerate(points):
        recorder.progress(i, len(points), f"{name} batch {grid.batch}, {grid.tokens} tokens")
        with recorder.attempt(name, {"batch": grid.batch, "tokens": grid.tokens}):
            _MEASURE[name](job, engine, prepared, grid, device)
    judging.judge(job, engine, prepared)
    engine.close()


def _open_engine(job: Job, settings: InferenceSettings, prepared: Prepared) -> Engine:
    entry: EngineEntry = registry.load("engine", settings.engine.address())
    return entry.open(
        settings,
        folder=job.parent_artifact,
        vocab_tokens=prepared.tokenizer.vocab_tokens,
        seed=job.trial.seed,
        device=str(job.device.torch_device()),
        threads=job.threads,
    )


def _prefill(job: Job, engine: Engine, prepared: Prepared, grid: Grid, device: Device) -> None:
    """Time the prompt alone: from its tokens on the device to the logits of its last position (TTFT)."""
    prompt_BT = _prompt(prepared, grid, device)
    engine.begin(grid.batch, grid.tokens)

    def once() -> None:
        engine.rewind(0)
        engine.prefill(prompt_BT)

    job.recorder.warm_up(once)
    work = engine.prefill_work(grid.batch, grid.tokens)
    with job.recorder.window("prefill", work=work, coordinates=_coordinates(grid)) as window:
        while window.unfinished():
            with window.step():
                once()


def _decode(job: Job, engine: Engine, prepared: Prepared, grid: Grid, device: Device) -> None:
    """Time one further token a sequence, greedy, with the context in the cache (TPOT)."""
    engine.begin(grid.batch, grid.tokens + _DECODE_RUN_TOKENS)
    logits_BV = engine.prefill(_prompt(prepared, grid, device))
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
    with job.recorder.window("decode", work=work, coordinates=_coordinates(grid)) as window:
        while window.unfinished():
            with window.step():
                once()
            rewind_at_end()


_MEASURE = {"prefill": _prefill, "decode": _decode}


def _prompt(prepared: Prepared, grid: Grid, device: Device) -> torch.Tensor:
    """Return held-out text as prompts `[batch, tokens]`, each row from another place, repeated where it runs out."""
    wanted = grid.batch * grid.tokens
    tokens = np.resize(prepared.heldout.tokens[:wanted], wanted).astype(np.int64)
    return torch.from_numpy(tokens.reshape(grid.batch, grid.tokens)).to(device.torch_device())


def _coordinates(grid: Grid) -> dict[str, int]:
    return {"batch": grid.batch, "tokens": grid.tokens}


ENTRY = WorkloadEntry(title="Prefill and decode over a grid, then quality", run=run)
