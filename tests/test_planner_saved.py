"""What parts say that they keep for the backward pass, against what autograd keeps, eager and as inductor cuts."""

import pytest
import torch
from tests.saved_tensors import layer_of, saved_by_autograd, saved_by_formula, settings_of

from efficientllm import catalog
from efficientllm.models.mixers import _recurrent
from efficientllm.models.mixers.gqa import GroupedQueryAttention
from efficientllm.models.mlp import _moe_paths, dense
from efficientllm.models.mlp.dense import GatedMlp
from efficientllm.planner.predict import forward_pass
from efficientllm.records.choice import Choice

MIXERS, MLPS = catalog.names("mixer"), catalog.names("mlp")
SOFTMAX = ("mha", "gqa", "mqa", "mla")

#: Other widths than those of `tiny`, none of which is another's multiple by chance.
ODD = {"width": 192, "num_heads": 6, "num_kv_heads": 3, "head_dim": 32, "mlp_width": 320}


def agree(settings, **changed):
    said, kept = saved_by_formula(settings, **changed), saved_by_autograd(settings)
    assert said == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("more", [{}, {"sequence_tokens": 320, "shape": ODD}], ids=["tiny", "odd"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_each_mixers_layer_keeps_what_it_says(mixer, more, dtype):
    agree(settings_of(mixer, dtype=dtype, **more))


@pytest.mark.parametrize("checkpointing", ["none", "selective"])
@pytest.mark.parametrize("shape", [{}, ODD], ids=["tiny", "odd"])
@pytest.mark.parametrize("mlp", MLPS)
def test_each_mlps_layer_keeps_what_it_says(mlp, shape, checkpointing):
    agree(settings_of(mlp=mlp, shape=shape, activation_checkpointing=checkpointing))


@pytest.mark.parametrize(
    "more",
    [
        {"shape": {"qk_norm": True}},
        {"position": "alibi"},
        {"shape": {"qkv_bias": True, "sliding_window": 32}},
        {"preset": "pythia"},
        {"mlp": "moe", "mlp_options": {"shared_experts": 1, "num_experts": 4, "active_experts": 3}},
        {"mixer": "mla", "mixer_options": {"rope_dim": 32, "nope_dim": 32}},
        {"mixer": "mamba2", "mixer_options": {"state_dim": 16}, "sequence_tokens": 100},
        {"weights_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_options_that_change_what_is_kept_are_counted(more):
    if more.get("preset"):
        more = {"preset": Choice(name="pythia"), "mixer": "mha", "mlp": "gelu"}
    agree(settings_of(**more))


@pytest.mark.parametrize("mixer", ["mamba2", "gated_deltanet", "rwkv7"])
def test_recurrent_layers_keep_what_they_say_where_chunks_are_computed_twice_as_on_cuda(mixer, monkeypatch):
    def twice(self, taken, memory, runs):
        with _recurrent._full_precision(taken[0]):
            return self.chunks_computed_twice(taken, memory, None)

    monkeypatch.setattr(_recurrent.RecurrentMixer, "_many", twice)
    settings = settings_of(mixer)
    kept = saved_by_autograd(settings)
    said = saved_by_formula(settings) - _asked(settings, "chunk_bytes") + _asked(settings, "taken_bytes")
    assert said == pytest.approx(kept, rel=0.02)


def _asked(settings, what):
    decoder = layer_of(settings)
    return getattr(decoder.block(0).mixer, what)(forward_pass(decoder, settings, "cpu"))


@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": "selective"}, {"dtype": "float32"}], ids=str)
@pytest.mark.parametrize("mixer", SOFTMAX)
def test_a_compiled_layer_of_softmax_attention_keeps_what_it_says(mixer, more):
    agree(settings_of(mixer, compile=True, **more))


@pytest.mark.parametrize(
    "more", [{"mlp": "gelu"}, {"weights_dtype": "bfloat16"}, {"shape": {"qk_norm": True}}], ids=str
)
def test_a_compiled_layer_keeps_what_it_says(more):
    agree(settings_of(compile=True, **more))


@pytest.mark.parametrize("checkpointing", ["none", "selective"])
@pytest.mark.parametrize("compiled", [False, True])
def test_experts_in_one_grouped_product_as_on_cuda_keep_what_they_say(compiled, checkpointing, monkeypatch):
    monkeypatch.setattr(_moe_paths, "grouped_fits", lambda *_: True)  # torch has it for processors too, only slow
    agree(settings_of(mlp="moe", compile=compiled, activation_checkpointing=checkpointing))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gated_layers_kernel_keeps_gate_and_up_alone(compiled, monkeypatch):
    for name in ("silu_gate", "silu_gate_backward"):
        monkeypatch.setattr(torch.ops.efficientllm, name, getattr(torch.ops.planner_tests, name), raising=False)
    monkeypatch.setattr(dense, "serves", lambda _: True)
    agree(settings_of(compile=compiled), kernels=True)


@torch.library.custom_op("planner_tests::silu_gate", mutates_args=())
def silu_gate(gate_up: torch.Tensor) -> torch.Tensor:
    """What the kernel of `_gated_kernel.py` gives, on a processor."""
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


@torch.library.custom_op("planner_tests::silu_gate_backward", mutates_args=())
def silu_gate_backward(gate_up: torch.Tensor, pull: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the right shapes; nobody asks for gradients here."""
    return torch.zeros_like(gate_up), torch.zeros_like(pull)


@silu_gate.register_fake
def _(gate_up):
    return gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)


@silu_gate_backward.register_fake
def _(gate_up, pull):
    return torch.empty_like(gate_up), torch.empty_like(pull)


@pytest.mark.parametrize(("part", "forgotten"), [(GroupedQueryAttention, "q_rows"), (GatedMlp, "mlp_width")])
def test_a_part_that_forgets_a_tensor_is_found_out(part, forgotten, monkeypatch):
    whole = part.saved_bytes

    def short(self, ahead):
        return whole(self, ahead) - ahead.numbers(getattr(self, forgotten, 0) or self.shape.mlp_width)

    monkeypatch.setattr(part, "saved_bytes", short)
    with pytest.raises(AssertionError):
        agree(settings_of())
