"""The predicted memory of fine-tuning: against what autograd keeps, what a step holds, and what an H200 held."""

import pytest
import torch
from msgspec.structs import replace
from tests.saved_tensors import Live, dtype_of

from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.adapters.attach import attach
from efficientllm.devices.cpu import CpuDevice
from efficientllm.models.build import build_decoder
from efficientllm.planner.predict import forward_pass, predict_training
from efficientllm.planner.train_memory import all_saved_bytes
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import MicroBatch

VOCAB = 320
SHAPE = {"width": 192, "num_layers": 3, "num_heads": 6, "num_kv_heads": 3, "head_dim": 32, "mlp_width": 512}


def tuning(method="lora", base=None, mixer="gqa", mlp="dense", options=None, shape=None, **more):
    options = ({} if method in ("full", "freeze", "ia3") else {"rank": 8}) | (options or {})
    return FinetuneSettings(
        **{"micro_batch": 2, "sequence_tokens": 128, "dtype": "bfloat16", "weights_dtype": "bfloat16", **more},
        method=Choice(name=method, options=options),
        base_precision=Choice(name=base) if base else None,
        mixer=Choice(name=mixer),
        mlp=Choice(name=mlp),
        shape={**SHAPE, **(shape or {})},
    )


def loop_of(settings):
    """A training loop over one batch of packed rows, and its decoder."""
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu", dtype=dtype_of(settings))
    attached = attach(decoder, settings, seed=0)
    decoder.train()
    rows, tokens = settings.micro_batch, settings.sequence_tokens
    ids_BT = (torch.arange(tokens) // 50).int().repeat(rows, 1)
    text_BT = torch.randint(0, VOCAB, (rows, tokens))
    batch = MicroBatch(text_BT, text_BT.roll(-1, 1), ids_BT, 1.0 / settings.passes, 3 * rows)

    class Batches:
        def of(self, step):
            return [batch] * settings.passes

        def fetch(self, step):
            pass

    return TrainLoop(decoder, settings, Batches(), CpuDevice(), rate_factor=attached.rate_factor), attached


def kept(settings):
    """Bytes that autograd keeps of all layers, each storage once; parameters and packed matrices are not counted."""
    loop, _ = loop_of(settings)
    decoder = loop.decoder
    known = {t.untyped_storage().data_ptr() for t in (*decoder.parameters(), *decoder.buffers())}
    storages, held = {}, []

    def keep(tensor):
        held.append(tensor)  # so that no later storage takes this one's address
        if tensor.untyped_storage().data_ptr() not in known:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = loop._batches.of(0)[0]
    with loop.autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder.hidden(batch.tokens, sequence_ids_BT=batch.sequence_ids)
    return sum(storages.values())


def said(settings):
    loop, _ = loop_of(settings)
    return all_saved_bytes(loop.decoder, settings, forward_pass(loop.decoder, settings, "cpu"))


CASES = [
    {"method": "lora"},
    {"method": "dora"},
    {"method": "freeze", "options": {"blocks": 2}},
    {"method": "full"},
    {"method": "lora", "base": "nf4"},
    {"method": "lora", "base": "int4", "shape": {"qkv_bias": True}},
    {"method": "dora", "base": "nf4"},
    {"method": "loha"},
    {"method": "lora", "options": {"targets": "q_proj v_proj"}},
    {"method": "lora", "options": {"targets": "down_proj o_proj"}},
    {"method": "lora", "mixer": "mla"},
    {"method": "lora", "mixer": "mha", "mlp": "gelu"},
    {"method": "lora", "weights_dtype": "float32"},
    {"method": "dora", "weights_dtype": "float32", "dtype": "float32"},
    {"method": "lora", "activation_checkpointing": "selective"},
    {"method": "lora", "base": "nf4", "activation_checkpointing": "selective"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_layers_keep_what_they_say(case):
    settings = tuning(**case)
    assert said(settings) == pytest.approx(kept(settings), rel=0.02)


def alive(settings):
    """The most bytes that are alive in the second step."""
    loop, attached = loop_of(settings)
    with Live() as live:
        for tensor in (
            *loop.decoder.parameters(),
            *loop.decoder.buffers(),
            *getattr(attached, "_initial", {}).values(),
        ):
            live.see(tensor)
        batch = loop._batches.of(0)[0]
        for tensor in (batch.tokens, batch.targets, batch.sequence_ids):
            live.see(tensor)
        loop.step()
        live.peak = 0
        loop.step()
    return live.peak


@pytest.mark.parametrize(
    "case",
    [
        *CASES,
        {"method": "pissa"},
        {"method": "lora", "activation_checkpointing": "full"},
        {"method": "dora", "activation_checkpointing": "full"},
        {"method": "lora", "base": "nf4", "activation_checkpointing": "full"},
        {"method": "freeze", "options": {"blocks": 1}, "shape": {"tie_embeddings": False}},
        {"method": "lora", "accumulation": 2},
    ],
    ids=str,
)
def test_the_predicted_peak_is_what_a_step_holds(case):
    settings = tuning(**{"sequence_tokens": 256, **case})
    predicted = predict_training(settings, VOCAB, "cpu")
    assert not predicted.why_not and not predicted.at_least
    assert predicted.peak_bytes == pytest.approx(alive(settings), rel=0.05)
