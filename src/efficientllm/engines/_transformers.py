"""What both engines over the transformers library share: all but the cache, and how one decode step is run.

Prompts of one length go in with neither mask nor positions, as the library's fast path wants it. Prompts of several
lengths are padded on the left; a mask and positions then keep what pads them out of sight.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.engines import _transformers_facts as counts
from efficientllm.engines._context import refuse_beyond
from efficientllm.engines._contract import Prompts
from efficientllm.engines._exact import round_around
from efficientllm.engines._greedy import left_padded, rows_of
from efficientllm.engines._transformers_cache import Kept, keep, take_back
from efficientllm.engines._transformers_load import Loaded
from efficientllm.errors import Unsupported
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work

#: Tokens, over all rows, that are scored at once, and whose logits are taken to float32 at once.
_SCORED_TOKENS = {"cpu": 1024, "cuda": 16384}


class TransformersEngine:
    """Serves a model of the library; those who inherit say which cache it has, and may run a step their own way."""

    def __init__(self, loaded: Loaded, settings: InferenceSettings) -> None:
        self._loaded, self._settings = loaded, settings
        self._model: Any = loaded.model.eval().requires_grad_(False)
        self._device: torch.device = self._model.device
        self._cache: Any = None
        self._kept: dict[int, list[Kept]] = {}
        self._batch = self._max_tokens = self._length = 0
        self._pads_B: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are held, shared ones once."""
        return counts.held_bytes(self._model)

    @property
    def length(self) -> int:
        """Tokens that each sequence of the present batch has behind it."""
        return self._length

    def begin(self, batch: int, max_tokens: int) -> None:
        """Start a batch of empty sequences with room for so many tokens each; the batch before is given up."""
        self._check_context(max_tokens)
        self._give_up_batch()
        self._batch, self._max_tokens = batch, max_tokens
        self._cache = self._new_cache(max_tokens)

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Add a piece of prompt to each sequence and return the logits after its last token, BV."""
        self._check(tokens_BT)
        tokens_BT = tokens_BT.to(self._device)
        logits_BV = self._run(tokens_BT)
        self._length += tokens_BT.shape[1]
        return logits_BV

    @torch.no_grad()
    def decode(self, tokens_B: Tensor) -> Tensor:
        """Add one token to each sequence and return the logits after it, BV."""
        self._check(tokens_B[:, None])
        logits_BV = self._step(tokens_B.to(self._device))
        self._length += 1
        return logits_BV

    @torch.no_grad()
    def mark(self) -> None:
        """Remember this point, so that `rewind` can come back to it."""
        assert self._cache is not None, "begin() comes first"
        self._kept[self._length] = [keep(layer) for layer in self._cache.layers]

    @torch.no_grad()
    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on, in each sequence: 0, or a length that was marked in this batch."""
        assert self._cache is not None, "begin() comes first"
        if length == 0:
            self._empty_cache()
        else:
            for layer, kept in zip(self._cache.layers, self._kept[length], strict=True):
                take_back(layer, kept, self._length, length)
        self._length = length

    @torch.no_grad()
    def score(self, tokens_BT: Tensor) -> tuple[float, int]:
        """Return the summed loss in nats of every token after the first of its row, and how many those are."""
        self._check_context(tokens_BT.shape[1] - 1)
        most = _SCORED_TOKENS["cuda" if self._device.type == "cuda" else "cpu"]
        nats, count = torch.zeros((), dtype=torch.float64, device=self._device), 0
        for part_BT in tokens_BT.split(max(1, most // tokens_BT.shape[1])):
            part_BT = part_BT.to(self._device)
            logits_MV = self._model(part_BT[:, :-1], use_cache=False).logits.flatten(0, 1)
            targets_M = part_BT[:, 1:].flatten()
            for piece_MV, wanted_M in zip(logits_MV.split(most), targets_M.split(most), strict=True):
                nats += F.cross_entropy(piece_MV.float(), wanted_M, reduction="sum")
            count += targets_M.numel()
        return float(nats), count

    @torch.no_grad()
    def exact_logits(self, tokens_BT: Tensor, last: int, *, rounding: bool = False) -> Tensor:
        """Return the logits after the last tokens, BnV, by a copy of the model in float32, held beside the model.

        Raises:
            Unsupported: weights that are quantised already, which their own library reads.
        """
        if self._loaded.weights:
            raise Unsupported(
                f"{self._loaded.weights}: what float32 arithmetic gives of these weights is not known here"
            )
        plain = copy.deepcopy(self._model).float()
        for layer in plain.modules() if rounding else ():
            if isinstance(layer, torch.nn.Linear):
                round_around(layer, self._model.dtype, self._model.dtype)
        found = plain(tokens_BT.to(self._device), use_cache=False, logits_to_keep=last).logits
        logits_BnV: Tensor = found.float()
        return logits_BnV

    def generate(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Return the `new_tokens` likeliest next tokens, one after the other, as Bn; starts a batch of its own."""
        tokens_BT, pads_B = left_padded(rows_of(prompts))
        self.begin(tokens_BT.shape[0], tokens_BT.shape[1] + new_tokens)
        self._pads_B = pads_B.to(self._device) if bool(pads_B.any()) else None
        chosen = [self.prefill(tokens_BT).argmax(-1)]
        while len(chosen) < new_tokens:
            chosen.append(self._plain_decode(chosen[-1]).argmax(-1))
        return torch.stack(chosen, dim=1)

    def facts(self) -> ModelFacts:
        """Return the model's counts."""
        return counts.facts(self._loaded, self._settings.sequence_tokens, self._implementations())

    def prefill_work(self, batch: int, tokens: int) -> Work:
        """Return the work of one prefill of an empty batch."""
        return counts.prefill_work(self._loaded, batch, tokens)

    def decode_work(self, batch: int, context: int) -> Work:
        """Return the work of one decode after `context` tokens."""
        return counts.decode_work(self._loaded, batch, context)

    def close(self) -> None:
        """Give up the model and its memory."""
        self._give_up_batch()
        self._model = None
        self._loaded = Loaded(None, self._loaded.outline, self._loaded.disk_bytes)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_context(self, tokens: int) -> None:
        refuse_beyond(self._loaded.context_tokens, tokens, f"this {self._model.config.model_type} model")

    def _new_cache(self, max_tokens: int) -> Any:
        raise NotImplementedError

    def _empty_cache(self) -> None:
        self._cache = self._new_cache(self._max_tokens)

    def _give_up_batch(self) -> None:
        self._cache = self._pads_B = None
        self._kept, self._length = {}, 0

    def _implementations(self) -> dict[str, str]:
        return {"attention": str(self._model.config._attn_implementation)}

    def _step(self, tokens_B: Tensor) -> Tensor:
        return self._run(tokens_B[:, None])

    @torch.no_grad()
    def _plain_decode(self, tokens_B: Tensor) -> Tensor:
        self._check(tokens_B[:, None])
        logits_BV = self._run(tokens_B[:, None])
        self._length += 1
        return logits_BV

    def _run(self, tokens_BT: Tensor) -> Tensor:
        """Put tokens into the cache as the library does it, and return the logits after the last, BV."""
        out = self._model(
            tokens_BT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **self._padding(tokens_BT.shape[1]),
        )
        logits_BV: Tensor = out.logits[:, -1]
        return logits_BV

    def _padding(self, new: int) -> dict[str, Tensor]:
        """Return mask and positions where prompts are padded, nothing where none is."""
        if self._pads_B is None:
            return {}
        index_T = torch.arange(self._length + new, device=self._device)
        mask_BT = (index_T >= self._pads_B[:, None]).long()
        positions_BT = (index_T[None, -new:] - self._pads_B[:, None]).clamp(min=0)
        return {"attention_mask": mask_BT, "position_ids": positions_BT}

    def _check(self, tokens_BT: Tensor) -> None:
        batch, new = tokens_BT.shape
        assert self._cache is not None, "begin() comes first"
        assert batch == self._batch, f"{batch} rows in a batch of {self._batch}"
        assert new > 0 and self._length + new <= self._max_tokens, (
            f"{new} tokens after {self._length} exceed the room for {self._max_tokens}"
        )
