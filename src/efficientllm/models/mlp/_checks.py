"""What every mlp is held to: each check takes an entry and raises AssertionError with one readable sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from efficientllm.checking import run_checks
from efficientllm.models.initial import initialise
from efficientllm.models.mlp._contract import Mlp, MlpEntry
from efficientllm.models.shape import Shape

Check = Callable[[MlpEntry], None]

#: Small; rows of 16 bytes in bfloat16, as grouped products want them.
SHAPE = Shape(num_layers=2, width=48, num_heads=4, num_kv_heads=2, mlp_width=64, vocab_tokens=64, head_dim=12)

#: (rows, tokens) of an input, most of them odd.
SIZES = ((1, 1), (3, 1), (1, 2), (3, 13), (1, 129))

#: Largest difference that counts as the same, relative to the largest value.
TOLERANCE = 2e-5
LOW_TOLERANCE = 0.04  # in bfloat16

#: A token's gradient reaches at least this part of the active parameters: all of a smooth layer's, half of a ReLU's.
_REACHED = 0.4


def check(entry: MlpEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS, entry)


def make_mlp(entry: MlpEntry) -> Mlp:
    """Return the entry's layer of the small shape, with weights rough enough for faults to show."""
    entry.supports(SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = entry.build(SHAPE)
    initialise(mlp, 0, num_layers=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return mlp


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """Return the same random input BTD for the same size."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randn(rows, length, SHAPE.width, generator=generator)


def same(got: Tensor, expected: Tensor, otherwise: str, tolerance: float = TOLERANCE) -> None:
    """Hold two tensors to be the same but for rounding; `otherwise` says what it means if they are not.

    Raises:
        AssertionError: they differ, in shape or value (NaN differs from everything).
    """
    assert got.shape == expected.shape, f"{otherwise}: shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    gap = (got.float() - expected.float()).abs().max().item()
    limit = tolerance * max(1.0, expected.abs().max().item())
    assert gap <= limit, f"{otherwise}: by up to {gap:.2g} (limit {limit:.2g})"


def odd_counts(entry: MlpEntry) -> None:
    """Every number of rows and tokens gives the reference's result, in training and in evaluation."""
    mlp = make_mlp(entry)
    for training in (True, False):
        mlp.train(training)
        for size in SIZES:
            x = tokens(*size)
            with torch.no_grad():
                got, expected = mlp(x), mlp.reference(x)
            assert got.shape == x.shape, f"{size[0]} rows of {size[1]} tokens give {tuple(got.shape)}"
            same(got, expected, f"{size[0]} rows of {size[1]} tokens differ from the reference")


def fast_is_reference(entry: MlpEntry) -> None:
    """The fast path equals the plain reference in its result and in all gradients."""
    mlp = make_mlp(entry)
    for size in ((3, 13), (1, 1)):
        pull = tokens(*size, seed=5)
        gradients = []
        for path in (mlp, mlp.reference):
            x = tokens(*size).requires_grad_()
            mlp.zero_grad()
            path(x).backward(pull)
            gradients.append({"the input": x.grad} | {name: p.grad for name, p in mlp.named_parameters()})
        for name, expected in gradients[1].items():
            got = gradients[0][name]
            expected = torch.zeros_like(got) if expected is None and got is not None else expected
            got = torch.zeros_like(expected) if got is None and expected is not None else got
            if got is not None and expected is not None:
                same(got, expected, f"the gradient of {name} differs from the reference's")


def tokens_on_their_own(entry: MlpEntry) -> None:
    """A token's result does not change with the other tokens, their order or their number."""
    mlp = make_mlp(entry).eval()
    x = tokens(3, 13)
    order = torch.randperm(39, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = mlp(x)
        shuffled = mlp(x.flatten(0, 1)[order].view(x.shape))
        same(shuffled.flatten(0, 1), expected.flatten(0, 1)[order], "results change when tokens change places")
        alone = torch.cat([mlp(x[:, place : place + 1]) for place in range(13)], 1)
        same(alone, expected, "a token's result changes when it comes alone")
        crowd = torch.cat((x, x[:, :1].expand(-1, 40, -1)), 1)
        same(mlp(crowd)[:, :13], expected, "results change when many equal tokens come along")
        changed = x.clone()
        changed[:, 6] += 1.0
        moved = (mlp(changed) - expected).abs().amax((0, 2))
    assert moved[6] > 0, "a token's result does not depend on the token itself"
    assert moved[torch.arange(13) != 6].max() <= TOLERANCE, "a token's result changes when another token does"


def parameters(entry: MlpEntry) -> None:
    """The layer states the parameters it stores and those that a token uses, and reads no more than it stores."""
    mlp = make_mlp(entry)
    stored, active = mlp.num_parameters(), mlp.num_active_parameters()
    held = sum(p.numel() for p in mlp.parameters())
    assert stored == held, f"num_parameters says {stored}, the layer holds {held}"
    assert 0 < active <= stored, f"{active} active parameters of {stored} stored"
    for seed in range(4):
        mlp.zero_grad()
        mlp(tokens(1, 1, seed)).square().sum().backward()
        reached = sum(int((p.grad != 0).sum()) for p in mlp.parameters() if p.grad is not None)
        assert reached <= active, f"one token's gradient reaches {reached} parameters, {active} are said to be active"
        assert reached >= _REACHED * active, (
            f"one token's gradient reaches {reached} parameters, far less than {active}"
        )
    reads = [mlp.read_parameters(number) for number in (1, 2, 8, 64, 100_000)]
    assert reads == sorted(reads) and reads[-1] <= stored, f"read_parameters {reads} does not rise to {stored}"
    assert abs(reads[0] - active) <= 0.01 * active, f"one token reads {reads[0]:g} parameters, {active} are active"


def flops(entry: MlpEntry) -> None:
    """`reference_flops` is what torch counts on the reference, and `model_flops` is not above it."""
    mlp = make_mlp(entry)
    for size in ((1, 13), (3, 67)):
        with FlopCounterMode(display=False) as counter:
            mlp.reference(tokens(*size))
        number = size[0] * size[1]
        counted, said = counter.get_total_flops(), mlp.reference_flops(number)
        assert abs(said - counted) <= 0.01 * counted, f"reference_flops says {said:g}, torch counts {counted}"
        needed = mlp.model_flops(number)
        assert 0 < needed <= said * 1.0001, f"model_flops {needed:g} is not between 0 and reference_flops {said:g}"
    matrices = 2 * (mlp.num_active_parameters())
    assert mlp.model_flops(1) >= 0.8 * matrices, (
        f"model_flops of a token {mlp.model_flops(1):g} is far below two for each active parameter, {matrices}"
    )


def trains(entry: MlpEntry) -> None:
    """A few steps lower the loss of a task, and over them every part of every parameter gets a gradient."""
    mlp = make_mlp(entry)
    trained = {name: p for name, p in mlp.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), lr=0.02)
    reached = {name: torch.zeros(len(p), dtype=torch.bool) for name, p in trained.items()}
    losses = []
    for step in range(40):
        x = tokens(4, 67, step)
        loss = (mlp(x) - x.roll(1, -1).tanh()).square().mean()
        optimizer.zero_grad()
        torch.stack([loss, *mlp.losses().values()]).sum().backward()
        for name, parameter in trained.items():
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"
            reached[name] |= (parameter.grad != 0).flatten(1).any(1) if parameter.dim() > 1 else parameter.grad != 0
        optimizer.step()
        mlp.after_step()
        losses.append(loss.item())
    for name, rows in reached.items():
        assert rows.all(), f"{int((~rows).sum())} of {len(rows)} rows of {name} get no gradient in 40 steps"
    assert losses[-1] < 0.8 * losses[0], f"40 steps bring the loss only from {losses[0]:.3f} to {losses[-1]:.3f}"


def auxiliary_losses(entry: MlpEntry) -> None:
    """Auxiliary losses are finite scalars with gradients, of the last forward pass in training, handed out once."""
    mlp = make_mlp(entry)
    mlp(tokens(3, 13))
    for name, loss in mlp.losses().items():
        assert loss.dim() == 0 and loss.isfinite() and loss.requires_grad, f"loss {name} is no finite scalar with grad"
    assert not mlp.losses(), "losses are handed out twice: their graph would outlive its step"
    with torch.no_grad():
        mlp(tokens(3, 13))
    mlp.eval()(tokens(3, 13))
    assert not mlp.losses(), "there are losses without training"


def low_precision(entry: MlpEntry) -> None:
    """In bfloat16, and under autocast over float32 weights, the results are nearly those of float32."""
    low = make_mlp(entry).to(torch.bfloat16)
    full = copy.deepcopy(low).float()  # of the same rounded weights, so that a router chooses alike
    x = tokens(3, 13).to(torch.bfloat16)
    with torch.no_grad():
        expected = full(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = full(x.float())
        got = low(x)
    assert got.dtype == torch.bfloat16, f"bfloat16 gives {got.dtype}"
    same(got, expected, "bfloat16 differs from float32", LOW_TOLERANCE)
    same(mixed, expected, "autocast to bfloat16 differs from float32", LOW_TOLERANCE)


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "odd counts": odd_counts,
    "fast path equals the reference": fast_is_reference,
    "each token on its own": tokens_on_their_own,
    "parameters as it says": parameters,
    "FLOPs as it says": flops,
    "trains": trains,
    "auxiliary losses": auxiliary_losses,
    "bfloat16": low_precision,
}
