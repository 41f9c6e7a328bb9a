"""The predicted peak of a training step, against the bytes that are alive while real steps run; and its parts."""

import time

import numpy as np
import pytest
from tests.saved_tensors import Live, dtype_of, settings_of

from efficientllm.devices.cpu import CpuDevice
from efficientllm.models import block
from efficientllm.models.build import build_decoder
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import num_parameters
from efficientllm.models.mlp.dense import GatedMlp
from efficientllm.planner.predict import forward_pass, one_layer, predict_training
from efficientllm.planner.train_memory import moments
from efficientllm.records.choice import Choice
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import StepTokens

VOCAB = 320


class RandomTokens:
    num_tokens = 10**6

    def __init__(self, vocab_tokens):
        self._vocab_tokens = vocab_tokens

    def rows(self, starts, tokens):
        return np.random.default_rng(0).integers(0, self._vocab_tokens, (len(starts), tokens + 1))


def held(settings, vocab_tokens=VOCAB):
    """The most bytes that are alive in the second step."""
    decoder = build_decoder(settings, vocab_tokens=vocab_tokens, seed=0, device="cpu", dtype=dtype_of(settings))
    loop = TrainLoop(
        decoder, settings, StepTokens(RandomTokens(vocab_tokens), settings, CpuDevice().torch_device(), 0), CpuDevice()
    )
    with Live() as live:
        for tensor in (*decoder.parameters(), *decoder.buffers()):
            live.see(tensor)
        loop.step()
        live.peak = 0
        loop.step()
    return live.peak


def run_of(mixer="gqa", mlp="dense", **more):
    return settings_of(mixer, mlp, **{"micro_batch": 4, "sequence_tokens": 256, "tokens": 10**5, **more})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"dtype": "float32"},
        {"weights_dtype": "bfloat16"},
        {"activation_checkpointing": "selective"},
        {"activation_checkpointing": "full"},
        {"accumulation": 2},
        {"mlp": "moe"},
        {"mlp": "moe", "activation_checkpointing": "full", "sequence_tokens": 64},
        {"mixer": "mla"},
        {"mixer": "mha", "mlp": "gelu"},
        {"mixer": "nsa"},
        {"mixer": "mamba2"},
        {"mixer": "gated_deltanet"},
        {"mixer": "rwkv7"},
        {"sequence_tokens": 8},
    ],
    ids=str,
)
def test_the_predicted_peak_is_what_a_step_holds(more):
    settings = run_of(**more)
    assert predict_training(settings, VOCAB, "cpu").peak_bytes == pytest.approx(held(settings), rel=0.05)


@pytest.mark.parametrize(
    ("vocab_tokens", "checkpointing", "moment"),
    [(4096, "none", "loss"), (VOCAB, "selective", "last layer"), (VOCAB, "full", "first layer")],
)
def test_each_moment_can_be_the_peak_and_then_is_what_a_step_holds(vocab_tokens, checkpointing, moment):
    settings = run_of(activation_checkpointing=checkpointing)
    predicted = predict_training(settings, vocab_tokens, "cpu")
    assert predicted.moment == moment
    assert predicted.peak_bytes == pytest.approx(held(settings, vocab_tokens), rel=0.05)


def test_with_a_head_of_its_own_and_few_tokens_the_end_of_the_backward_pass_is_the_peak():
    settings = run_of(sequence_tokens=4, shape={"tie_embeddings": False})
    predicted = predict_training(settings, 8192, "cpu")
    assert predicted.moment in ("first layer", "embedding", "step")
    assert predicted.peak_bytes == pytest.approx(held(settings, 8192), rel=0.05)


def test_a_count_that_forgets_the_copies_of_the_weights_is_found_out(monkeypatch):
    monkeypatch.setattr(block, "copied_bytes", lambda part, ahead: 0.0)
    settings = run_of()
    assert predict_training(settings, VOCAB, "cpu").peak_bytes < 0.95 * held(settings)


def test_the_parts_of_tiny_are_those_worked_out_by_hand():
    settings = run_of(dtype="float32")
    step = all_moments(settings, VOCAB)[-1]
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    numbers = num_parameters(decoder)
    assert (step.moment, step.activations_bytes, step.logits_bytes) == ("step", 0.0, 0.0)
    assert step.gradients_bytes == 4 * numbers
    assert step.optimizer_bytes == 8 * numbers + 4 * len(list(decoder.parameters()))
    frequencies = 4 * 32
    assert step.weights_bytes == 4 * numbers + frequencies


def all_moments(settings, vocab_tokens, device="cpu"):
    decoder, num_layers = one_layer(settings, vocab_tokens)
    return moments(decoder, num_layers, settings, forward_pass(decoder, settings, device))


def large(**more):
    return settings_of(**{"size": "1.5b", "micro_batch": 8, "sequence_tokens": 2048, "compile": True, **more})


@pytest.mark.parametrize(
    ("lever", "part"),
    [
        ({"activation_checkpointing": "selective"}, "activations_bytes"),
        ({"activation_checkpointing": "full"}, "activations_bytes"),
        ({"micro_batch": 4, "global_batch": 8}, "activations_bytes"),
        ({"optimizer": Choice(name="adamw8bit")}, "optimizer_bytes"),
        ({"weights_dtype": "bfloat16"}, "weights_bytes"),
        ({"offload": "optimizer"}, "optimizer_bytes"),
        ({"offload": "weights"}, "weights_bytes"),
        ({"ranks": 2, "global_batch": 16}, "optimizer_bytes"),
    ],
    ids=str,
)
def test_each_lever_takes_from_the_part_that_it_is_for(lever, part):
    plain, changed = (predict_training(large(**more), 151_936, "cuda") for more in ({}, lever))
    assert getattr(changed, part) < getattr(plain, part)
    assert changed.peak_bytes < plain.peak_bytes


def test_two_ranks_hold_half_of_the_optimisers_state_each():
    one, two = (all_moments(large(ranks=ranks), 151_936, "cuda")[-1] for ranks in (1, 2))
    assert two.optimizer_bytes == one.optimizer_bytes / 2
    assert two.gradients_bytes == one.gradients_bytes / 2


def test_an_eager_layer_keeps_more_than_a_compiled_one_and_a_kernel_less_than_both():
    ahead = ForwardPass(rows=8, tokens=2048, dtype_bytes=2, accelerator=True)
    decoder, _ = one_layer(large(), 64)
    mlp, compiled = decoder.block(0).mlp, {"compiled": True}
    eager, cut, fused = (
        mlp.saved_bytes(ForwardPass(**{**vars(ahead), **more}))
        for more in ({}, compiled, {**compiled, "kernels": True})
    )
    assert eager > cut > fused
    assert fused == 8 * 2048 * 2 * (1536 + 2 * 8960)


def test_the_largest_model_is_predicted_at_once():
    settings = settings_of(size="72b", micro_batch=8, sequence_tokens=2048)
    predict_training(settings, 151_936, "cuda")
    begin_s = time.perf_counter()
    predicted = predict_training(settings, 151_936, "cuda")
    assert time.perf_counter() - begin_s < 0.2
    assert predicted.weights_bytes == pytest.approx(4 * 72.7e9, rel=1e-2)


def test_a_part_of_ones_own_that_says_nothing_leaves_the_run_without_a_prediction(monkeypatch):
    monkeypatch.delattr(GatedMlp, "saved_bytes")
    predicted = predict_training(run_of(), VOCAB, "cpu")
    assert "GatedMlp" in predicted.why_not and "saved_bytes" in predicted.why_not
    assert predicted.figures() == {}


def test_the_figures_of_a_prediction_add_up():
    figures = predict_training(run_of(), VOCAB, "cpu").figures()
    parts = sum(value for name, value in figures.items() if name != "predicted_peak_bytes")
    assert figures["predicted_peak_bytes"] == pytest.approx(parts)
