"""What every fine-tuning method is held to: each check takes an entry and raises AssertionError with one sentence.

A method must serve a model of a family; one of no family, and one with experts, it may refuse with its reason.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from efficientllm.adapters._contract import Attached, MethodEntry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.checking import hold_refused, run_checks
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.decoder import Decoder
from efficientllm.precision.pack import pack_frozen
from efficientllm.records.choice import Choice, Scalar
from efficientllm.records.model_settings import ModelSettings

Check = Callable[[MethodEntry], None]

SHAPE: dict[str, Scalar] = {"width": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
#: Models by what is special about them: a family's with biases, one of no family, one with experts.
MODELS = {
    "qwen": ModelSettings(shape={**SHAPE, "qkv_bias": True}),
    "mla": ModelSettings(shape=SHAPE, mixer=Choice(name="mla", options={"latent_rank": 32})),
    "moe": ModelSettings(shape=SHAPE, mlp=Choice(name="moe")),
}
VOCAB = 300
TOKENS = torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))

#: The smallest difference that counts: what sums in another order may leave.
CLOSE = 1e-5

#: The rank that fits every layer of the small models, for a method that takes one.
_RANK = 8

#: A format that a packed base is tried in.
_PACKED = Choice(name="nf4")

_WORDS = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}


def check(entry: MethodEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS, entry)


def decoder_of(settings: ModelSettings, dtype: torch.dtype = torch.float32) -> Decoder:
    """Return a decoder, the same each time, whose biases are not zero."""
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu", dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def attached(entry: MethodEntry, decoder: Decoder, seed: int = 3) -> Attached:
    """Return the method at work with its default options, but of a rank that fits the small models."""
    takes_rank = "rank" in inspect.signature(entry.attach).parameters
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return entry.attach(decoder, **({"rank": _RANK} if takes_rank else {}))


def train(method: Attached, steps: int = 4, autocast: bool = False) -> list[float]:
    """Take steps on one batch; return the loss before each, and after the last."""
    optimizer = torch.optim.AdamW(method.trained().values(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # each time anew: it keeps copies of weights
            loss = method.decoder.loss(TOKENS[:, :-1], TOKENS[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, method.decoder.loss(TOKENS[:, :-1], TOKENS[:, 1:]).item()]


@torch.no_grad()
def logits(decoder: nn.Module) -> Tensor:
    """Return what a decoder says of the batch."""
    found: Tensor = decoder(TOKENS)
    return found


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def served(entry: MethodEntry) -> Iterator[tuple[str, Decoder, Attached]]:
    """Yield the models that the method serves: name, decoder, the method at work on it."""
    for name, settings in MODELS.items():
        decoder = decoder_of(settings)
        try:
            method = attached(entry, decoder)
        except (UserError, Unsupported):
            if name == "qwen":
                raise
        else:
            yield name, decoder, method


def card(entry: MethodEntry) -> None:
    """Its card says what it claims, in words that a report knows, and every option has a value without a recipe."""
    assert entry.card.title and entry.card.source, "its card lacks a title or a source"
    strange = {*entry.card.improves, *entry.card.costs} - _WORDS
    assert not strange, f"its card names {min(strange)!r}. Known: {', '.join(sorted(_WORDS))}"
    options = list(inspect.signature(entry.attach).parameters.values())[1:]
    bare = [option.name for option in options if option.default is option.empty]
    assert not bare, f"the option {bare[0]!r} has no default"


def begins(entry: MethodEntry) -> None:
    """Before the first step the model computes what it computed without the method, drawn from torch's seed."""
    for name, decoder, method in served(entry):
        gap = distance(logits(decoder), logits(decoder_of(MODELS[name])))
        assert gap < CLOSE, f"on {name} the model differs by {gap:.1e} before the first step"
        again = attached(entry, decoder_of(MODELS[name])).trained()
        for key, parameter in method.trained().items():
            assert torch.equal(parameter, again[key]), f"on {name} {key} is another with the same seed of torch"


def trains(entry: MethodEntry) -> None:
    """The loss falls, all that is said to be trained gets a finite gradient, and nothing else moves."""
    for name, decoder, method in served(entry):
        trained = method.trained()
        assert trained, f"on {name} nothing is trained"
        frozen = {key: p.detach().clone() for key, p in decoder.named_parameters() if not p.requires_grad}
        buffers = {key: b.clone() for key, b in decoder.named_buffers()}
        begun = logits(decoder)
        losses = train(method)
        assert losses[-1] < losses[0], f"on {name} the loss does not fall: {losses[0]:.3f} to {losses[-1]:.3f}"
        for key, p in trained.items():
            assert p.grad is not None and p.grad.isfinite().all(), f"on {name} {key} gets no finite gradient"
            assert p.grad.any(), f"on {name} the gradient of {key} is zero"
            assert 0 < method.rate_factor(key) < 1e6, f"the rate of {key} is {method.rate_factor(key)} times the rate"
        held = {**dict(decoder.named_parameters()), **dict(decoder.named_buffers())}
        moved = [key for key, was in (frozen | buffers).items() if not torch.equal(held[key], was)]
        assert not moved, f"on {name} {moved and moved[0]} moves, though it is not trained"
        assert distance(logits(decoder), begun) > 10 * CLOSE, f"on {name} training changes nothing that is computed"


def saves(entry: MethodEntry) -> None:
    """Read back into the model it began with, it gives the same logits; an empty folder is refused in one line."""
    for name, decoder, method in served(entry):
        train(method, steps=2)
        with TemporaryDirectory() as folder:
            method.save(Path(folder) / "adapter", "base")
            other = decoder_of(MODELS[name])
            again = attached(entry, other, seed=4)
            again.load(Path(folder) / "adapter")
            gap = distance(logits(other), logits(decoder))
            assert gap < CLOSE, f"on {name}, saved and read back, it differs by {gap:.1e}"
            assert again.trained().keys() == method.trained().keys(), f"on {name}, read back, it trains something else"
            (Path(folder) / "empty").mkdir()
            hold_refused(functools.partial(again.load, Path(folder) / "empty"), "loading an empty folder")


def merges(entry: MethodEntry) -> None:
    """Merged, it is a plain decoder that gives the same logits, is saved and read as any other, and is not trained."""
    for name, decoder, method in served(entry):
        train(method, steps=2)
        trained = logits(decoder)
        method.merge()
        gap = distance(logits(decoder), trained)
        assert gap < CLOSE, f"on {name} merged and unmerged differ by {gap:.1e}"
        _hold_plain(decoder, name)
        merged = logits(decoder)
        method.merge()
        assert torch.equal(logits(decoder), merged), f"on {name} a second merge changes the model"
        with TemporaryDirectory() as folder:
            checkpoint.save(decoder, MODELS[name], Path(folder) / "merged")
            gap = distance(logits(checkpoint.load(Path(folder) / "merged").eval()), trained)
        assert gap < CLOSE, f"on {name}, merged, saved and read, the model differs by {gap:.1e}"


def formats(entry: MethodEntry) -> None:
    """It learns over a base in bfloat16 and under autocast, and its own numbers get gradients of their own type."""
    for dtype in (torch.float32, torch.bfloat16):
        decoder = decoder_of(MODELS["qwen"], dtype).train()
        method = attached(entry, decoder)
        losses = train(method, autocast=True)
        assert losses[-1] < losses[0], f"over a base in {dtype} the loss does not fall"
        wrong = [key for key, p in method.trained().items() if p.grad is None or p.grad.dtype != p.dtype]
        assert not wrong, f"over a base in {dtype} {wrong and wrong[0]} has a gradient of another type"
        assert logits(decoder).dtype == dtype, f"over a base in {dtype} logits are {logits(decoder).dtype}"


def packed(entry: MethodEntry) -> None:
    """Over a base in four bits it learns and merges, or its entry says why not."""
    if entry.over_packed:
        return
    decoder = decoder_of(MODELS["qwen"])
    method = attached(entry, decoder)
    bases = [(layer, "base") for layer in decoder.modules() if isinstance(layer, AdaptedLinear)]
    num_packed = pack_frozen(bases, _PACKED)
    assert num_packed, "it leaves no frozen layer that could be packed, and over_packed does not say so"
    losses = train(method)
    assert losses[-1] < losses[0], "over a base in four bits the loss does not fall"
    trained = logits(decoder)
    method.merge()
    gap = distance(logits(decoder), trained)
    assert gap < CLOSE, f"over a base in four bits merged and unmerged differ by {gap:.1e}"
    _hold_plain(decoder, "qwen")


def _hold_plain(decoder: Decoder, name: str) -> None:
    """Hold a decoder to the modules that it was built of, with nothing to train."""
    plain = {key: type(module) for key, module in decoder_of(MODELS[name]).named_modules()}
    found = {key: type(module) for key, module in decoder.named_modules()}
    other = sorted(key for key in plain.keys() | found.keys() if plain.get(key) != found.get(key))
    assert not other, f"on {name}, merged, {other and other[0]} is no plain layer"
    assert not any(p.requires_grad for p in decoder.parameters()), f"on {name}, merged, something can be trained"


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "card and options": card,
    "begins at the model": begins,
    "trains, and only what it says": trains,
    "saved and read it is the same": saves,
    "merged equals unmerged": merges,
    "number formats": formats,
    "over a packed base": packed,
}
