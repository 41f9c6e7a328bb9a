"""Quality of a model that is served: its loss on held-out text, domain by domain, and how far it is from a reference.

Each text has a window of its own: `quality` for the corpus, `quality_NAME` for a domain. Its rows keep their loss one
by one, so that trials are compared row by row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from efficientllm.data.packing import Tokens
from efficientllm.data.prepare import Prepared, judged_rows, outside_rows
from efficientllm.engines._logits import nats_of
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work
from efficientllm.stats.percentile import percentile
from efficientllm.stats.power import smallest_detectable_change
from efficientllm.workloads._contract import OpenWindow, Recorder
from efficientllm.workloads.teller import DecoderTeller, EngineTeller, Teller

_ROWS_AT_ONCE = 8
_KL = ("kl_nats_per_token", "kl_p99_nats", "top1_agreement_ratio")


def texts_of(prepared: Prepared, settings: InferenceSettings) -> Iterator[tuple[str, Tokens, int]]:
    """Yield window, rows and scored bytes of each text that judges."""
    yield "quality", *judged_rows(prepared.heldout, settings)
    for name, file in prepared.domains.items():
        yield f"quality_{name}", *outside_rows(file, settings)


@dataclass
class Gap:
    """How far one model's next-token distributions are from another's.

    Attributes:
        kl: divergence KL(reference ‖ own) in nats, of each token.
        agreed, tokens: how often the likeliest token is the same, of how many.
    """

    kl: list[Tensor] = field(default_factory=list)
    agreed: int = 0
    tokens: int = 0

    def add(self, own_BtV: Tensor, reference_BtV: Tensor) -> None:
        """Compare logits of the same places."""
        self.kl.append(divergence(reference_BtV, own_BtV).flatten().cpu())
        self.agreed += int((own_BtV.argmax(-1) == reference_BtV.argmax(-1)).sum())
        self.tokens += own_BtV[..., 0].numel()

    def tell(self, window: OpenWindow) -> None:
        """Say mean, p99 and the share of agreement."""
        kl_N = torch.cat(self.kl).double().numpy()
        window.figure("kl_nats_per_token", float(kl_N.mean()))
        p99 = percentile(kl_N, 99)
        if p99.value is None:
            window.absent("kl_p99_nats", p99.absent)
        else:
            window.figure("kl_p99_nats", p99.value)
        window.figure("top1_agreement_ratio", self.agreed / self.tokens)


def divergence(reference_BtV: Tensor, own_BtV: Tensor) -> Tensor:
    """Return KL(reference ‖ own) of next-token distributions in nats, Bt, never below 0.

    >>> float(divergence(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])))
    0.0
    """
    expected = reference_BtV.log_softmax(-1)
    gap = expected - own_BtV.log_softmax(-1)
    return gap.mul_(expected.exp_()).sum(-1).clamp_(min=0.0)


@dataclass(frozen=True)
class TextJudge:
    """Judges one teller.

    Attributes:
        teller: whose quality it is.
        reference: what it is compared with, or None.
        why_alone: why there is none.
        settings, recorder: of the trial.
    """

    teller: Teller
    reference: DecoderTeller | None
    why_alone: str
    settings: InferenceSettings
    recorder: Recorder

    def judge(self, prepared: Prepared) -> None:
        """Score each text in its window; one that runs out of memory leaves the others as they are."""
        for name, rows, scored_bytes in texts_of(prepared, self.settings):
            work = Work(tokens=_ROWS_AT_ONCE * self.settings.sequence_tokens, samples=_ROWS_AT_ONCE)
            with self.recorder.attempt(name, {}), self.recorder.window(name, work=work, adaptive=False) as window:
                self._score(rows, scored_bytes, name, window)

    def _score(self, rows: Tokens, scored_bytes: int, name: str, window: OpenWindow) -> None:
        rows_RT, gap = torch.from_numpy(rows), Gap()
        nats: list[float] = []
        for teller in (self.teller, self.reference):
            if teller is not None:
                teller.begin(rows_RT[:, :-1])
        for start in range(0, len(rows_RT), _ROWS_AT_ONCE):
            some = slice(start, min(start + _ROWS_AT_ONCE, len(rows_RT)))
            with window.step():
                found = self._row_nats(rows_RT, some, gap)
            nats += found
            for value in found:
                window.value("row_nats", "nats", value)
            self.recorder.progress(some.stop, len(rows_RT), name.replace("_", " "))
        _tell_loss(nats, rows_RT.shape[1] - 1, scored_bytes, window)
        if self.reference is not None:
            gap.tell(window)
            window.figure("reference_streamed", float(self.reference.streamed))
        for figure in _KL if self.reference is None else ():
            window.absent(figure, self.why_alone)

    def _row_nats(self, rows_RT: Tensor, some: slice, gap: Gap) -> list[float]:
        """Return the summed loss of each of some rows; what a reference says of them goes into the gap."""
        if self.reference is None and isinstance(self.teller, EngineTeller):
            return self.teller.nats(rows_RT[some])
        nats_B = torch.zeros(some.stop - some.start, dtype=torch.float64)
        for places, own_BtV in self.teller.pieces(some):
            targets_Bt = rows_RT[some, places.start + 1 : places.stop + 1].to(own_BtV.device)
            nats_B += nats_of(own_BtV, targets_Bt).double().sum(1).cpu()
            if self.reference is not None:
                gap.add(own_BtV, self.reference.logits(some, places))
        return nats_B.tolist()


def _tell_loss(nats: list[float], row_tokens: int, scored_bytes: int, window: OpenWindow) -> None:
    """Say the figures of held-out quality, and the smallest rise that so many rows can tell.

    That is said beforehand, from the spread of this model's own rows, as if another model's errors had nothing to do
    with them: pairs of a model and its quantised self are far more alike, and tell less.
    """
    count, total = len(nats) * row_tokens, float(np.sum(nats))
    window.figure("heldout_tokens", count)
    window.figure("heldout_bytes", scored_bytes)
    window.figure("heldout_nats_per_token", total / count)
    window.figure("heldout_perplexity", math.exp(min(total / count, 700.0)))
    window.figure("heldout_bits_per_byte", total / math.log(2) / scored_bytes)
    if len(nats) > 1:
        spread = math.sqrt(2) * statistics.stdev(nats) / row_tokens
        least = smallest_detectable_change(spread, len(nats))
        if least is not None:
            window.figure("smallest_detectable_rise_nats", least)
