"""Does fine-tuning on a CUDA device compute what it should, and what do packed rows cost?

    python benchmarks/cuda_adapters.py [METHOD or FORMAT …]        all without arguments; about three minutes

Compiled layers in bf16 against the peft library's own in float32: the gradients' relative difference, beside that of
the library's own in bf16. Then attention over packed rows against every score written out, and its time beside that
of a mask. Prints one line a check and exits with 1 if one fails.
"""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from torch import Tensor

from cuda_training import FAILED, error_of, say
from efficientllm import catalog, registry
from efficientllm.adapters._layer import AdaptedLinear
from efficientllm.adapters.attach import attach
from efficientllm.models.build import build_decoder
from efficientllm.models.decoder import Decoder
from efficientllm.models.mixers._attention import attention, reference_attention
from efficientllm.models.position._contract import Position, Positions
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.training.blocks import prepare_blocks

#: How much more than the library's own rounding ours may be.
ALLOWANCE = 1.5


def gradients(decoder: Decoder) -> tuple[float, Tensor]:
    """Return the loss of a packed batch and all gradients."""
    tokens = torch.randint(0, 8192, (2, 513), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    ids = (torch.arange(512, device="cuda") // 100)[None].expand(2, -1)
    loss, _ = decoder.losses(tokens[:, :-1], tokens[:, 1:], ids, 16)
    loss.backward()
    return float(loss), torch.cat([p.grad.float().flatten() for p in decoder.parameters() if p.grad is not None])


def whole_step(name: str, **told: Choice) -> None:
    """Loss and gradients of two layers with adapters."""
    torch._dynamo.reset()
    takes_rank = "rank" in inspect.signature(registry.load("method", name).attach).parameters
    settings = FinetuneSettings(
        size="0.5b", shape={"num_layers": 2}, dtype="bfloat16", weights_dtype="bfloat16", compile=True,
        method=Choice(name=name, options={"rank": 16} if takes_rank else {}), sequence_tokens=512, **told,
    )  # fmt: skip
    ours = build_decoder(settings, vocab_tokens=8192, seed=0, device="cuda", dtype=torch.bfloat16)
    attach(ours, settings, seed=0)
    draw = torch.Generator("cuda").manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad and not parameter.any():  # an adapter begins as nothing
                parameter.copy_(0.02 * torch.randn(parameter.shape, device="cuda", generator=draw))
    exact, plain = copy.deepcopy(ours).float(), copy.deepcopy(ours)
    for other in (exact, plain):
        for layer in other.modules():
            if isinstance(layer, AdaptedLinear):
                layer.fast = None
    prepare_blocks(ours, settings)
    losses, found = zip(*(gradients(decoder.train()) for decoder in (ours, plain, exact)), strict=True)
    title = " ".join([name, *(f"over {value.name}" for value in told.values())])
    say(f"{title}: loss", abs(losses[0] / losses[2] - 1), 2e-3)
    say(f"{title}: gradients", error_of(found[0], found[2]), ALLOWANCE * error_of(found[1], found[2]))


def packed_rows() -> None:
    """Attention over packed rows, and the time of both its ways."""
    draw = torch.Generator("cuda").manual_seed(0)
    given = [torch.randn(2, heads, 2048, 128, device="cuda", generator=draw).bfloat16() for heads in (12, 2, 2, 12)]
    lengths = torch.randint(20, 600, (2, 40), device="cuda", generator=draw).cumsum(1)
    ids = torch.searchsorted(lengths, torch.arange(2048, device="cuda").expand(2, -1).contiguous(), right=True)
    index = torch.arange(2048, device="cuda")[None]
    for window in (0, 256):
        results = []
        for dtype, call, most in (
            (torch.float32, reference_attention, 0), (torch.bfloat16, attention, 0), (torch.bfloat16, attention, 128),
        ):  # fmt: skip
            leaves = [x.to(dtype).requires_grad_() for x in given[:3]]
            positions = Positions(index, Position(), most_sequences=most)
            out = call(*leaves, positions, scale=128**-0.5, window=window, sequence_ids_BT=ids)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, given[3].to(dtype))])
        for name, got, masked, right in zip("oqkv", results[2], results[1], results[0], strict=True):
            bound = ALLOWANCE * error_of(masked, right)
            say(f"packed rows, window {window}: {name}", error_of(got, right), bound)
    for most in (0, 128):
        leaves = [x.clone().requires_grad_() for x in given[:3]]
        times = []
        for _ in range(12):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(50_000_000)  # the host is ahead from here on, and its own time is not counted
            positions = Positions(index, Position(), most_sequences=most)
            begin.record()
            for _ in range(8):
                out = attention(*leaves, positions, scale=128**-0.5, sequence_ids_BT=ids)
                torch.autograd.grad(out, leaves, given[3])
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 8)
        print(
            f"packed rows, forward and backward, {'flash' if most else 'mask'}: {sorted(times)[6]:.3f} ms", flush=True
        )


def main() -> None:
    """Check all."""
    packed_rows()
    wanted = sys.argv[1:] or [*catalog.names("method"), *catalog.names("precision")]
    for name in wanted:
        if name in catalog.names("method"):
            whole_step(name)
        else:
            for method in ("lora", "dora"):
                whole_step(method, base_precision=Choice(name=name))
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
