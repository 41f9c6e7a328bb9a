"""Quality after fine-tuning: the loss of held-out responses, and how many of them are right.

A response is told exactly if each of its tokens is the likeliest one after those before it: that is the response which
greedy decoding would give. Where only a part of it is the answer (`72` after a whole calculation) the model writes its
own response instead, greedily, and the answer is what it must end with.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.data.samples import Encoded, batch_rows
from efficientllm.data.tokenizer import Tokenizer
from efficientllm.devices._contract import Device
from efficientllm.models.cross_entropy import IGNORE
from efficientllm.models.decoder import Decoder
from efficientllm.models.generate import generate
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.window import Work
from efficientllm.training.evaluate import as_it_is, undisturbed
from efficientllm.workloads._contract import OpenWindow, Recorder

_ROWS_AT_ONCE = 8

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Judge:
    """What judges a decoder by held-out samples.

    Attributes:
        decoder: the model, adapters and all.
        settings: length of a row, how many answers are asked for.
        device: where it is.
        autocast: context of a forward pass.
        tokenizer: its tokenizer.
        recorder: whom to tell.
    """

    decoder: Decoder
    settings: FinetuneSettings
    device: Device
    autocast: Autocast
    tokenizer: Tokenizer
    recorder: Recorder

    def judge(self, samples: Sequence[Encoded]) -> None:
        """Score responses, then ask for answers, in a window `quality`.

        Figures: those of any held-out quality, over the responses' tokens; `exact_responses_ratio` of
        `judged_samples`; where answers are asked for `exact_answers_ratio` of `asked_samples`.
        """
        work = Work(tokens=_ROWS_AT_ONCE * self.settings.sequence_tokens, samples=_ROWS_AT_ONCE)
        with (
            self.recorder.attempt("quality", {}),
            self.recorder.window("quality", work=work, adaptive=False) as window,
            as_it_is(self.settings),
            undisturbed(self.decoder),
        ):
            self._score(samples, window)
            asked = samples[: self.settings.answers]
            if asked:
                right = sum(self._answers(asked))
                window.figure("asked_samples", len(asked))
                window.figure("exact_answers_ratio", right / len(asked))
            else:
                window.absent("exact_answers_ratio", "no answers were asked for: set `answers`")

    def _score(self, samples: Sequence[Encoded], window: OpenWindow) -> None:
        nats, count, exact, num_bytes = 0.0, 0, 0, 0
        for start in range(0, len(samples), _ROWS_AT_ONCE):
            some = samples[start : start + _ROWS_AT_ONCE]
            tokens, targets = batch_rows(some, self.settings.sequence_tokens)
            with window.step():
                batch_nats, missed_R, counted = self._losses(torch.from_numpy(tokens), torch.from_numpy(targets))
            nats, count, exact = nats + batch_nats, count + counted, exact + int((missed_R == 0).sum())
            num_bytes += self.tokenizer.byte_lengths[targets[targets != IGNORE]].sum()
            self.recorder.progress(start + len(some), len(samples), "held-out responses")
        window.figure("judged_samples", len(samples))
        window.figure("exact_responses_ratio", exact / len(samples))
        window.figure("heldout_tokens", count)
        window.figure("heldout_bytes", int(num_bytes))
        window.figure("heldout_nats_per_token", nats / count)
        window.figure("heldout_perplexity", math.exp(min(nats / count, 700.0)))
        window.figure("heldout_bits_per_byte", nats / math.log(2) / int(num_bytes))

    def _losses(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[float, Tensor, int]:
        """Return summed nats, how many targets of each row are not the likeliest, and how many targets there are."""
        device = self.device.torch_device()
        tokens_BT, targets_BT = tokens_BT.to(device), targets_BT.to(device)
        counted_BT = targets_BT != IGNORE
        with torch.inference_mode(), self.autocast():
            hidden_BTD = self.decoder.hidden(tokens_BT)
            logits_NV = F.linear(hidden_BTD[counted_BT], self.decoder.head_weight).float()
        targets_N = targets_BT[counted_BT]
        nats = F.cross_entropy(logits_NV, targets_N, reduction="sum")
        missed_BT = torch.zeros_like(counted_BT).masked_scatter(counted_BT, logits_NV.argmax(-1) != targets_N)
        return float(nats), missed_BT.sum(1).cpu(), len(targets_N)

    def _answers(self, samples: Sequence[Encoded]) -> list[bool]:
        """Return for each sample whether the model's own response ends with the right answer."""
        ordered = sorted(range(len(samples)), key=lambda i: samples[i].prompt_tokens)  # alike prompts side by side
        right = [False] * len(samples)
        # a chat template may end a turn by a token of its own; that of a cut sample is no end, and stands for bytes
        last = {int(sample.tokens[sample.learned][-1]) for sample in samples}
        ends = {self.tokenizer.end_of_text, *(i for i in last if not self.tokenizer.byte_lengths[i])}
        for start in range(0, len(ordered), _ROWS_AT_ONCE):
            some = ordered[start : start + _ROWS_AT_ONCE]
            prompts = [samples[i].tokens[: samples[i].prompt_tokens].tolist() for i in some]
            with torch.inference_mode(), self.autocast():
                given = generate(self.decoder, prompts, self.settings.answer_tokens, ends)
            for i, ids in zip(some, given, strict=True):
                right[i] = is_right(self.tokenizer.decode(ids), samples[i])
            self.recorder.progress(start + len(some), len(samples), "answers")
        return right


def is_right(given: str, sample: Encoded) -> bool:
    """Whether a response ends with the answer; without one, whether it is the sample's own.

    >>> import numpy as np
    >>> sample = Encoded(np.array([1]), np.array([True]), 0, "6 * 12 = #### 72", "72")
    >>> is_right("so #### 72 ", sample), is_right("#### 172", sample)
    (True, False)
    """
    said = given.strip()
    if not sample.answer:
        return said == sample.response.strip()
    before = said.removesuffix(sample.answer)
    return before != said and not before[-1:].isalnum()
