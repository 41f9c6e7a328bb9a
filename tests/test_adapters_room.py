"""A frozen matrix with room for a factor beside it: results, gradients, and all that may happen to it meanwhile."""

import copy

import pytest
import torch
from tests.adapted import TOKENS, attached, decoder_of, distance, logits, train
from tests.test_adapters_fast import adapted, layers, stepped
from torch._subclasses.fake_tensor import FakeTensorMode

from efficientllm.adapters._checks import distance as gap
from efficientllm.precision._low_rank_product import Room, low_rank_pull, low_rank_sum, make_room

WIDE, NONE, TALL = "columns", "", "rows"


def roomy(*given, **more):
    decoder = adapted(*given, **{"mlp_width": 512, **more})
    for layer in layers(decoder):
        layer.make_room()
    return decoder


def spares(decoder):
    return {layer.fast._spare(layer.base) for layer in layers(decoder) if layer.fast is not None}


@pytest.mark.parametrize(("kind", "bias"), [("lora", False), ("lora", True), ("dora", True), ("lora on some", False)])
def test_results_and_gradients_are_those_without_room(kind, bias):
    shape = {"qkv_bias": True, "mlp_bias": True} if bias else {}
    decoder = roomy(kind, **shape)
    for layer in layers(decoder):
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    assert spares(decoder) >= {WIDE, TALL}
    loss, gradients = stepped(decoder)
    plain = copy.deepcopy(decoder)
    assert spares(plain) == {NONE}, "a copy has no room of its own"
    expected, theirs = stepped(plain)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), name


def test_in_bfloat16_it_is_as_near_to_what_is_right():
    decoder = roomy(dtype=torch.bfloat16)
    found, plain = stepped(decoder)[1], stepped(copy.deepcopy(decoder))[1]
    right = stepped(copy.deepcopy(decoder).float())[1]
    errors = [
        torch.stack([(given[name] - right[name]).norm() for name in right]).norm().item() for given in (found, plain)
    ]
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_it_is_the_same(dtype):
    decoder = roomy(dtype=dtype)
    expected, gradients = stepped(decoder)
    torch._dynamo.reset()
    for number in range(2):
        decoder.block(number).compile(dynamic=False, fullgraph=True, backend="aot_eager")
    loss, compiled = stepped(decoder)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - compiled[name]).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize(("rows", "width", "spare"), [(64, 24, WIDE), (24, 64, TALL)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_operators_declare_what_they_give(rows, width, spare, bias):
    weight = torch.nn.Parameter(torch.randn(rows, width), requires_grad=False)
    room = make_room(weight, 8)
    assert room.spare(weight) == spare
    given = (
        torch.randn(5, width), weight, torch.randn(rows) if bias else None, torch.randn(8, width), torch.randn(rows, 8),
    )  # fmt: skip
    backward = (torch.randn(5, rows), weight, *given[3:])
    operators, below = torch.ops.efficientllm, spare == TALL
    for operator, its in ((operators.low_rank_sum, given), (operators.low_rank_pull, backward)):
        with FakeTensorMode() as mode:
            said = operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in its), below)
        for real, fake in zip(operator(*its, below), said, strict=True):
            assert (real.shape, real.stride(), real.dtype) == (fake.shape, fake.stride(), fake.dtype)
    for one, other in (
        (low_rank_sum(*given, spare), low_rank_sum(*given, "")),
        (low_rank_pull(*backward, spare), low_rank_pull(*backward, "")),
    ):
        assert all(gap(a, b) < 1e-5 for a, b in zip(one, other, strict=True))


def test_a_matrix_shared_by_two_layers_may_be_used_twice_before_either_backward_pass():
    decoder = roomy()
    first, second = (decoder.block(number).mlp.gate_up for number in range(2))
    second.base.weight = first.base.weight
    second.fast._room = first.fast._room
    expected = stepped(copy.deepcopy(decoder))[1]
    found = stepped(decoder)[1]
    assert spares(decoder) == {WIDE, NONE, TALL}
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("full", [True, False])
def test_what_is_computed_again_and_summed_over_passes_is_the_same(full):
    decoder = roomy()
    expected = stepped(copy.deepcopy(decoder))[1]
    decoder.checkpoints_blocks = full
    for number in range(2):
        decoder.block(number).mlp.recomputes = not full
    tokens = torch.arange(22).view(2, 11)
    decoder.zero_grad()
    one = decoder.loss(tokens, tokens + 1)
    two = decoder.loss(tokens, tokens + 1)
    with torch.no_grad():
        decoder.loss(tokens + 3, tokens)
    (one + two).backward()
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad / 2 - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("method", ["lora", "pissa", "dora", "lora_plus", "rslora"])
def test_attached_trained_moved_saved_and_merged(method, tmp_path):
    decoder = decoder_of("qwen")
    tuned = attached(decoder, method)
    names = {name: p.shape for name, p in decoder.named_parameters()}
    assert spares(decoder) >= {WIDE}
    bytes_beside = sum(layer.room_bytes() for layer in layers(decoder))
    assert tuned.held_bytes() >= bytes_beside > 0
    frozen = {name: p.clone() for name, p in decoder.named_parameters() if not p.requires_grad}
    losses = train(tuned, steps=3)
    assert losses[-1] < losses[0]
    held = dict(decoder.named_parameters())
    assert all(torch.equal(held[name], was) for name, was in frozen.items())
    trained = logits(decoder)
    tuned.save(tmp_path / "adapter", "base")
    other = decoder_of("qwen")
    again = attached(other, method, seed=4)
    again.load(tmp_path / "adapter")
    assert distance(logits(other), trained) < 1e-4
    for change in (copy.deepcopy, lambda given: copy.deepcopy(given).double().float()):
        changed = change(decoder)
        assert {name: p.shape for name, p in changed.named_parameters()} == names
        assert spares(changed) == {NONE} and distance(logits(changed), trained) < 1e-5
    tuned.merge()
    assert distance(logits(decoder), trained) < 1e-4
    for parameter in decoder.parameters():
        assert parameter.is_contiguous() and parameter.untyped_storage().nbytes() == parameter.nbytes


def test_there_is_room_only_where_it_serves():
    assert spares(adapted(mlp_width=512)) == {NONE}, "the library's own methods move nothing by themselves"
    assert spares(roomy(dropout=0.1)) == {NONE}
    for rows, width, rank in ((64, 64, 8), (64, 24, 6), (60, 24, 8), (64, 20, 8)):
        assert make_room(torch.nn.Parameter(torch.zeros(rows, width)), rank) is None
    part = torch.nn.Parameter(torch.zeros(128, 24)[:64])
    assert make_room(part, 8) is None, "a part of another matrix stays with it"
    shared = torch.nn.Parameter(torch.zeros(64, 24))
    assert make_room(shared, 8) == Room(0, 8) and make_room(shared, 8) is None


def test_eager_and_recorded_numbers_are_finite_whatever_lies_in_the_room():
    decoder = roomy()
    expected = logits_of(decoder)
    for layer in layers(decoder):
        if layer.fast._spare(layer.base):
            weight, whole = layer.base.weight.data, layer.base.weight.data.untyped_storage()
            kept = weight.clone()
            torch.empty(0, dtype=weight.dtype).set_(whole).fill_(float("nan"))
            weight.copy_(kept)
    assert torch.equal(logits_of(decoder), expected)
    assert all(gradient.isfinite().all() for gradient in stepped(decoder)[1].values())


@torch.no_grad()
def logits_of(decoder):
    return decoder(TOKENS % 64)
