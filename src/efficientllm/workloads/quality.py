"""Held-out quality: loss, perplexity and bits per byte, teacher-forced over the same rows for every technique."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch

from efficientllm.data.packing import Tokens
from efficientllm.data.prepare import Prepared, judged_rows, outside_rows
from efficientllm.devices._contract import Device
from efficientllm.models.decoder import Decoder
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.window import Work
from efficientllm.training.evaluate import as_it_is, undisturbed
from efficientllm.workloads._contract import Recorder

#: rows of tokens -> (sum of nats over the scored tokens, how many were scored).
Scorer = Callable[[torch.Tensor], tuple[float, int]]

#: Makes the context of a forward pass.
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]

_ROWS_AT_ONCE = 8


def judge(scorer: Scorer, prepared: Prepared, settings: ModelSettings, device: Device, recorder: Recorder) -> None:
    """Score the held-out rows in a `quality` window, and those of another corpus in a `quality_outside` window.

    Every token of a row but the first is predicted from those before it in the row. `heldout_bits_per_byte` divides
    by the UTF-8 bytes of exactly the scored tokens.
    """
    score(scorer, judged_rows(prepared.heldout, settings), "quality", settings, device, recorder)
    if prepared.outside is not None:
        score(scorer, outside_rows(prepared.outside, settings), "quality_outside", settings, device, recorder)


def score(
    scorer: Scorer, judged: tuple[Tokens, int], name: str, settings: ModelSettings, device: Device, recorder: Recorder
) -> float:
    """Score rows in a window of this name; return the mean in nats a token, 0 where memory ran out."""
    rows_RT, scored_bytes = judged
    work = Work(tokens=_ROWS_AT_ONCE * settings.sequence_tokens, samples=_ROWS_AT_ONCE)
    nats, count = 0.0, 0
    # out of memory here leaves the trial's other windows as they are
    with recorder.attempt(name, {}), recorder.window(name, work=work, adaptive=False) as window:
        for i in range(0, len(rows_RT), _ROWS_AT_ONCE):
            batch_BT = torch.from_numpy(rows_RT[i : i + _ROWS_AT_ONCE]).to(device.torch_device())
            with window.step():
                batch_nats, batch_count = scorer(batch_BT)
            nats, count = nats + batch_nats, count + batch_count
            recorder.progress(i + len(batch_BT), len(rows_RT), "held-out loss")
        window.figure("heldout_tokens", count)
        window.figure("heldout_bytes", scored_bytes)
        window.figure("heldout_nats_per_token", nats / count)
        window.figure("heldout_perplexity", math.exp(min(nats / count, 700.0)))
        window.figure("heldout_bits_per_byte", nats / math.log(2) / scored_bytes)
    return nats / count if count else 0.0


def decoder_scorer(decoder: Decoder, settings: ModelSettings, autocast: Autocast) -> Scorer:
    """Return a scorer over a decoder that is in training form, under the context of its forward passes."""

    def scored(rows_BT: torch.Tensor) -> tuple[float, int]:
        with torch.inference_mode(), autocast(), as_it_is(settings), undisturbed(decoder):
            nats, count = decoder.loss_sum(rows_BT[:, :-1], rows_BT[:, 1:])
        return float(nats), int(count)

    return scored
