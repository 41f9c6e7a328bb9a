"""What every number format is held to: each check takes an entry and raises AssertionError with one sentence."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientllm.checking import hold_refused, run_checks
from efficientllm.precision._contract import PackedLinear, PrecisionEntry, packed_bytes
from efficientllm.precision.pack import unpack

Check = Callable[[PrecisionEntry], None]

_OUT, _IN = 96, 160
#: What a layer computes in: type of the matrix, and whether autocast to bfloat16 is on.
_KINDS = {"float32": (torch.float32, False), "autocast": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}
_WORDS = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}


def check(entry: PrecisionEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS if entry.pack else {"card and options": card}, entry)


def matrix(rows: int = _OUT, columns: int = _IN, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return numbers as weights have them, the same each time."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pack(entry: PrecisionEntry, weight: Tensor | None = None, bias: Tensor | None = None) -> PackedLinear:
    """Return the layer of a matrix, with the format's default options."""
    weight = matrix() if weight is None else weight
    assert entry.pack is not None, "it packs nothing"
    more = {"moments_II": moments(weight)} if entry.needs_inputs else {}
    layer = entry.pack(weight, None if bias is None else nn.Parameter(bias, requires_grad=False), **more)
    shape = (layer.out_features, layer.in_features)
    assert isinstance(layer, PackedLinear), f"pack gives a {type(layer).__name__}, no PackedLinear"
    assert shape == tuple(weight.shape) == tuple(layer.weight.shape), f"{tuple(weight.shape)} is packed as {shape}"
    return layer


def moments(weight: Tensor) -> Tensor:
    """Return the mean of x xᵀ over inputs that lean on each other a little."""
    x = matrix(2 * weight.shape[1], weight.shape[1], seed=4).double()
    return (x.t() @ x / len(x) + 0.3).float()


def run(layer: nn.Module, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """Return result and gradients of what goes in and of the bias, for a pull that differs from place to place."""
    given, bias = x.clone().requires_grad_(), layer.bias
    assert isinstance(bias, Tensor)
    bias.requires_grad_().grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(given)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    assert given.grad is not None, "what goes in gets no gradient"
    assert bias.grad is not None, "the bias gets no gradient"
    return [y.detach(), given.grad, bias.grad]


def kept_by(call: Callable[[], object]) -> list[Tensor]:
    """Return the tensors that a call keeps for the backward pass."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return kept


def same(found: Iterable[Tensor], wanted: Iterable[Tensor], bound: float, otherwise: str) -> None:
    """Hold tensors to be the same but for rounding; `otherwise` says what it means if they are not."""
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype, f"{otherwise}: {one.dtype}, not {other.dtype}"
        gap = ((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()
        assert gap <= bound, f"{otherwise} (differs by {gap:.1e})"


def card(entry: PrecisionEntry) -> None:
    """Its card says what it claims, in words that a report knows, and every option has a value without a recipe."""
    assert entry.card.title and entry.card.source, "its card lacks a title or a source"
    strange = {*entry.card.improves, *entry.card.costs} - _WORDS
    assert not strange, f"its card names {min(strange)!r}. Known: {', '.join(sorted(_WORDS))}"
    options = list(inspect.signature(entry.pack).parameters.values())[2:] if entry.pack else []
    bare = [option.name for option in options if option.default is option.empty and option.name != "moments_II"]
    assert not bare, f"the option {bare[0]!r} has no default"


def size(entry: PrecisionEntry) -> None:
    """What is held takes the bits that `bits` says, and nothing of it can be trained."""
    for dtype in (torch.float32, torch.bfloat16):
        layer = pack(entry, matrix(512, 384, dtype))
        bits = 8 * layer.packed_bytes() / (512 * 384)
        assert abs(bits - entry.bits) <= 0.02 * entry.bits, f"a number takes {bits:.2f} bits, bits says {entry.bits:g}"
        assert not list(layer.parameters()), "without a bias it has parameters, and is to be frozen"
        assert layer.weight.dtype == dtype, f"a matrix in {dtype} is read as {layer.weight.dtype}"


def shapes(entry: PrecisionEntry) -> None:
    """Matrices of any shape are held, near what they were."""
    bound = max(0.15, 2.4 * 2.0 ** -int(entry.bits))  # of normal numbers, rounded evenly between their ends
    for rows, columns in ((1, 1), (3, 7), (37, 111), (1, 129), (64, 64), (_OUT, _IN)):
        weight = matrix(rows, columns)
        layer = pack(entry, weight)
        gap = ((layer.weight - weight).norm() / weight.norm()).item()
        assert gap <= bound, f"of {rows} x {columns} numbers {gap:.0%} is lost, more than {bound:.0%}"
        out = layer(torch.randn(2, columns))
        assert out.shape == (2, rows), f"two tokens through {rows} x {columns} come out as {tuple(out.shape)}"


def numbers(entry: PrecisionEntry) -> None:
    """Zeros stay zeros, outliers and tiny numbers stay finite; NaN and infinity are refused in one line."""
    assert pack(entry, torch.zeros(64, 128)).weight.abs().max() == 0, "zeros are read as something else"
    hard = matrix(64, 512)
    hard[3], hard[4, 7], hard[5] = 0.0, 1e4, 1e-30
    assert pack(entry, hard).weight.isfinite().all(), "with an outlier and tiny numbers it reads what is not finite"
    for broken in (torch.nan, torch.inf):
        weight = matrix()
        weight[2, 3] = broken
        hold_refused(functools.partial(pack, entry, weight), f"a matrix with {broken}")


def products(entry: PrecisionEntry) -> None:
    """Results, of all rows or some, and gradients of input and bias are a dense layer's of the matrix that is read."""
    for kind, (dtype, autocast) in _KINDS.items():
        layer = pack(entry, matrix(dtype=dtype), matrix(1, _OUT, dtype, seed=1)[0])
        dense, bound = dense_of(layer), 1e-5 if kind == "float32" else 1e-2
        for shape in ((2, 5, _IN), (1, _IN)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
            found, wanted = run(layer, x, autocast), run(dense, x, autocast)
            same(found, wanted, bound, f"in {kind} result or gradients are not a dense layer's")
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                some = layer.product(x, slice(24, 57))
                same([some], [layer(x)[..., 24:57]], 1e-2, f"in {kind} some rows are not those of all")


def memory(entry: PrecisionEntry) -> None:
    """For the backward pass no more is kept than what is held."""
    layer, x = pack(entry), torch.randn(2, 5, _IN, requires_grad=True)
    calls: dict[str, Callable[[], object]] = {"all": lambda: layer(x), "some": lambda: layer.product(x, slice(0, 90))}
    for autocast in (False, True):
        for which, call in calls.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                kept = sum(tensor.nbytes for tensor in kept_by(call))
            held = layer.packed_bytes()
            assert kept <= held, f"for the backward pass of {which} rows {kept} bytes are kept, of {held} held"


def compiled(entry: PrecisionEntry) -> None:
    """A compiler makes one graph of it, with the same results, that keeps no matrix for the backward pass."""
    torch._dynamo.reset()  # what other formats have compiled counts against the limit of this one
    layer, x = pack(entry, None, torch.zeros(_OUT)), torch.randn(2, 5, _IN)
    model = nn.Sequential(layer, nn.SiLU(), pack(entry, matrix(64, _OUT, seed=3)))
    model.bias = layer.bias
    faster = torch.compile(model, backend="aot_eager_decomp_partition", fullgraph=True)
    faster.bias = layer.bias  # type: ignore[attr-defined] # a compiled model is a module
    for autocast in (False, True):
        kept = kept_by(lambda: run(faster, x, autocast))  # type: ignore[arg-type] # noqa: B023 # called at once
        most = packed_bytes(model) + 4 * 64 * _OUT
        assert sum(t.nbytes for t in kept) < most, "compiled, it keeps more than it holds for the backward pass"
        whole = [t for t in kept if t.is_floating_point() and t.numel() >= 64 * _OUT]
        assert not whole, "compiled, it keeps a matrix for the backward pass"
        found, wanted = run(faster, x, autocast), run(model, x, autocast)  # type: ignore[arg-type]
        same(found, wanted, 1e-2 if autocast else 1e-5, "compiled, results or gradients differ")


def recomputed(entry: PrecisionEntry) -> None:
    """With activation checkpointing result and gradient are the same."""
    layer, x = pack(entry, None, torch.zeros(_OUT)), torch.randn(2, 5, _IN)
    expected, given = run(layer, x), x.clone().requires_grad_()
    y = checkpoint(layer, given, use_reentrant=False)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
    assert given.grad is not None and torch.equal(y, expected[0]), "recomputed, the result differs"
    assert torch.equal(given.grad, expected[1]), "recomputed, the gradient differs"


@torch.no_grad()
def moved(entry: PrecisionEntry) -> None:
    """Copies, casts, saved states and moves keep what is held, bit for bit."""
    layer = pack(entry, None, torch.ones(_OUT))
    weight, held = layer.weight, layer.packed_bytes()
    other = pack(entry, matrix(seed=9), torch.zeros(_OUT))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, weight), "a saved state does not hold all of it"
    assert torch.equal(copy.deepcopy(layer).weight, weight), "a copy is another"
    low = copy.deepcopy(layer).to(torch.bfloat16)
    bias = low.bias.dtype
    assert bias == low.weight.dtype == torch.bfloat16, f"cast to bfloat16 it is read as {low.weight.dtype}, bias {bias}"
    assert torch.equal(low.weight, weight.bfloat16()), "cast to bfloat16 it reads another matrix"
    assert torch.equal(low.float().weight, weight), "a cast to bfloat16 and back has rounded what is held"
    assert held == low.packed_bytes() == other.packed_bytes(), "after a cast it holds more, or less"
    assert copy.deepcopy(layer).to("meta").weight.shape == weight.shape, "on the device meta it has no shape"
    plain = unpack(layer)
    assert type(plain) is nn.Linear and torch.equal(plain.weight, weight), "unpacked for merging it is another"


def dense_of(layer: PackedLinear) -> nn.Linear:
    """Return an ordinary layer of the matrix that is read."""
    dense = nn.Linear(layer.in_features, layer.out_features)
    dense.weight, dense.bias = nn.Parameter(layer.weight.clone()), nn.Parameter(layer.bias.detach().clone())
    return dense


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "card and options": card,
    "bits as it says": size,
    "any shape": shapes,
    "hard numbers": numbers,
    "results and gradients are a dense layer's": products,
    "keeps no matrix for the backward pass": memory,
    "compiles into one graph": compiled,
    "recomputes": recomputed,
    "copies, casts and moves": moved,
}
