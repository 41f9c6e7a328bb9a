"""Our own decoder, served as fast as torch allows: on CUDA a captured decode step, on a processor an eager one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.engines._capture import CapturedStep
from efficientllm.engines._compiling import compile_each_window
from efficientllm.engines._context import context_tokens, refuse_beyond
from efficientllm.engines._contract import EngineEntry, Prompts
from efficientllm.engines._exact import Rounding, exact_logits
from efficientllm.engines._greedy import greedy
from efficientllm.engines._logits import piece_tokens
from efficientllm.engines._precision import calibrate, weight_format
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint, costs
from efficientllm.models.build import build_decoder
from efficientllm.models.decoder import Decoder
from efficientllm.models.decoder_state import DecoderState
from efficientllm.models.linear import stored_bytes
from efficientllm.models.position.rope import RotaryPosition
from efficientllm.models.weight_files import read_config
from efficientllm.precision.cache.choose import load_coder
from efficientllm.precision.pack import load_precision
from efficientllm.records.card import Card
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work

#: Tokens, over all rows, that pass the layers at once in prefill and scoring: bounds the memory of activations.
_CHUNK_TOKENS = {"cpu": 1024, "cuda": 16384}

#: On CUDA room is made in steps of so many tokens, which the split value product of one-token attention divides.
_ROOM_STEP = 256


class NativeEngine:
    """Serves a `Decoder`."""

    def __init__(self, decoder: Decoder, settings: InferenceSettings, disk_bytes: int, context_tokens: int = 0) -> None:
        self._decoder = decoder.eval().requires_grad_(False)
        self._decoder.code_cache(load_coder(settings.cache))
        self._settings, self._disk_bytes, self._context = settings, disk_bytes, context_tokens
        self._on_cuda = decoder.device.type == "cuda"
        if settings.compile:
            # Layer by layer: all have the same code, so that one compilation serves them all, in seconds.
            compile_each_window()
            for number in range(decoder.shape.num_layers):
                decoder.block(number).compile(dynamic=False)
        self._state: DecoderState | None = None
        self._captured: CapturedStep | None = None
        self._batch = self._max_tokens = 0

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._decoder.device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are held, shared ones once."""
        return stored_bytes(self._decoder)

    @property
    def length(self) -> int:
        """Tokens that each sequence of the present batch has behind it."""
        return 0 if self._state is None else self._state.length

    @torch.inference_mode()
    def begin(self, batch: int, max_tokens: int) -> None:
        """Start a batch of empty sequences with room for so many tokens each; the batch before is given up."""
        self._decoder.position.check_length(max_tokens)
        self._check_context(max_tokens)
        self._state = self._captured = None  # first give up the old, so that both are never held at once
        room = -(-max_tokens // _ROOM_STEP) * _ROOM_STEP if self._on_cuda else max_tokens
        self._state = self._decoder.allocate(batch, room)
        self._batch, self._max_tokens = batch, max_tokens
        if self._settings.compile:
            self._state.use_fixed_shapes()

    @torch.inference_mode()
    def prefill(self, tokens_BT: Tensor) -> Tensor:
        """Add a piece of prompt to each sequence and return the logits after its last token, BV."""
        state = self._checked_state(tokens_BT)
        chunk = max(1, _CHUNK_TOKENS["cuda" if self._on_cuda else "cpu"] // self._batch)
        for piece_BT in tokens_BT.to(self.device).split(chunk, dim=1):
            # A later piece runs as it is: its number of tokens before would be compiled in, for each piece anew.
            with nullcontext() if state.length == 0 else self._as_it_is():
                hidden_BTD = self._decoder.run(piece_BT, state=state)
            state.advance(piece_BT.shape[1])
        return F.linear(hidden_BTD[:, -1], self._decoder.head_weight)

    @torch.inference_mode()
    def decode(self, tokens_B: Tensor) -> Tensor:
        """Add one token to each sequence and return the logits after it, BV."""
        state = self._checked_state(tokens_B[:, None])
        if self._on_cuda:
            if self._captured is None:
                self._captured = self._capture(state)
            logits_BV = self._captured(tokens_B)
        else:
            logits_BV = self._one_token(tokens_B, state)
        state.advance(1)
        return logits_BV

    @torch.inference_mode()
    def mark(self) -> None:
        """Remember this point, so that `rewind` can come back to it."""
        assert self._state is not None, "begin() comes first"
        self._state.mark()

    @torch.inference_mode()
    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on, in each sequence: 0, or a length that was marked in this batch."""
        assert self._state is not None, "begin() comes first"
        self._state.rewind(length)

    @torch.inference_mode()
    def score(self, tokens_BT: Tensor) -> tuple[float, int]:
        """Return the summed loss in nats of every token after the first of its row, and how many those are."""
        self._check_context(tokens_BT.shape[1] - 1)
        rows = max(1, _CHUNK_TOKENS["cuda" if self._on_cuda else "cpu"] // tokens_BT.shape[1])
        nats, count = 0.0, 0
        for part_BT in tokens_BT.split(rows):
            part_BT = part_BT.to(self.device)
            with self._as_it_is():
                total, number = self._decoder.loss_sum(part_BT[:, :-1], part_BT[:, 1:])
            nats, count = nats + float(total), count + int(number)
        return nats, count

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """Yield the logits after each token, in pieces of consecutive positions, BtV in float32."""
        self._check_context(tokens_BT.shape[1])
        rows = max(1, _CHUNK_TOKENS["cuda" if self._on_cuda else "cpu"] // tokens_BT.shape[1])
        parts_BTD = []
        for part_BT in tokens_BT.split(rows):
            state = self._decoder.scoring_state(*part_BT.shape)
            with self._as_it_is():
                parts_BTD.append(self._decoder.hidden(part_BT.to(self.device), state=state))
        hidden_BTD = torch.cat(parts_BTD)
        piece = piece_tokens(len(tokens_BT), self._decoder.shape.vocab_tokens, self.device)
        for hidden_BtD in hidden_BTD.split(piece, dim=1):
            yield F.linear(hidden_BtD, self._decoder.head_weight).float()

    @torch.inference_mode()
    def exact_logits(self, tokens_BT: Tensor, last: int, *, rounding: bool = False) -> Tensor:
        """Return the logits after the last tokens, BnV, by float32 arithmetic on the weights as they are read."""
        stream, choice = self._decoder.dtype, self._settings.precision
        computes_in = load_precision(choice).computes_in if choice is not None else ""
        types = Rounding(stream, getattr(torch, computes_in) if computes_in else stream)
        return exact_logits(self._decoder, tokens_BT, last, types if rounding else None)

    def generate(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Return the `new_tokens` likeliest next tokens, one after the other, as Bn; starts a batch of its own."""
        return greedy(self, prompts, new_tokens)

    def facts(self) -> ModelFacts:
        """Return the model's counts."""
        counted = costs.facts(self._decoder, self._decoder.dtype.itemsize, self._settings.sequence_tokens)
        return msgspec.structs.replace(counted, disk_bytes=self._disk_bytes)

    def prefill_work(self, batch: int, tokens: int) -> Work:
        """Return the work of one prefill of an empty batch."""
        return costs.prefill_work(self._decoder, batch, tokens)

    def decode_work(self, batch: int, context: int) -> Work:
        """Return the work of one decode after `context` tokens."""
        return costs.decode_work(self._decoder, batch, context)

    def close(self) -> None:
        """Give up the model and its memory."""
        self._state = self._captured = None
        self._decoder.to("meta")
        if self._on_cuda:
            torch.cuda.empty_cache()

    def _check_context(self, tokens: int) -> None:
        """Refuse what a checkpoint with rope was not made for; other positions have an end of their own, or none."""
        if isinstance(self._decoder.position, RotaryPosition):
            refuse_beyond(self._context, tokens, "this checkpoint")

    def _one_token(self, tokens_B: Tensor, state: DecoderState) -> Tensor:
        hidden_BTD = self._decoder.run(tokens_B[:, None], state=state)
        return F.linear(hidden_BTD[:, 0], self._decoder.head_weight)

    def _as_it_is(self) -> AbstractContextManager[Any]:
        """Return a region in which layers run uncompiled: texts of other lengths would compile them anew."""
        if not self._settings.compile:
            return nullcontext()
        region: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")  # holds from here on
        return region

    def _capture(self, state: DecoderState) -> CapturedStep:
        length = state.length
        state.mark()

        def restore() -> None:
            state.advance(1)
            state.rewind(length)

        return CapturedStep(lambda tokens_B: self._one_token(tokens_B, state), restore, self._batch, self.device)

    def _checked_state(self, tokens_BT: Tensor) -> DecoderState:
        batch, new = tokens_BT.shape
        assert self._state is not None, "begin() comes first"
        assert batch == self._batch, f"{batch} rows in a batch of {self._batch}"
        assert new > 0 and self._state.length + new <= self._max_tokens, (
            f"{new} tokens after {self._state.length} exceed the room for {self._max_tokens}"
        )
        return self._state


def open_native(
    settings: InferenceSettings,
    *,
    folder: Path | None,
    vocab_tokens: int,
    seed: int,
    device: str,
    threads: int,
    calibration_BT: Tensor | None = None,
) -> NativeEngine:
    """Load the folder, or build random weights of the settings' size; see the contract."""
    if settings.engine.options:
        raise UserError(f"unknown option {min(settings.engine.options)!r} of engine native. It has no options.")
    where = torch.device(device)
    if where.type not in _CHUNK_TOKENS:
        raise Unsupported(f"engine native runs on cpu and cuda, not on {where.type}")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported("torch finds no CUDA device")
    if threads:
        torch.set_num_threads(threads)
    dtype, after_block = weight_format(settings, where)
    # Packed layer by layer on the device: a layer that is drawn lies there, one that is read first lies on the host.
    first = where if after_block is None else torch.device("cpu")
    disk_bytes = context = 0
    if folder is not None:
        decoder, disk_bytes = checkpoint.load(folder, first, dtype, after_block), checkpoint.weight_file_bytes(folder)
        context = context_tokens(read_config(folder))
    else:
        decoder = build_decoder(
            settings,
            vocab_tokens=vocab_tokens,
            seed=seed,
            device=first,
            dtype=dtype,
            draws_on=where,
            after_block=after_block,
        )
    decoder = decoder.to(where)
    calibrate(decoder, settings, calibration_BT)
    return NativeEngine(decoder, settings, disk_bytes, context)


ENTRY = EngineEntry(
    card=Card(
        title="The package's own decoder",
        source="https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs",
        improves=("latency",),
        note="inference mode; on CUDA the decode step is captured in a graph",
    ),
    open=open_native,
)
