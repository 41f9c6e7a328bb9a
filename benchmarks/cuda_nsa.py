"""NSA at the head layouts of the paper's sizes on a CUDA device: its kernels against the plain branch, and its time.

    python benchmarks/cuda_nsa.py

Prints, for 14/2 heads of 64 (0.5b), 12/2 of 128 (1.5b) and 16/2 of 128 (3b), the relative errors of the selected
branch's kernels at the same choice of blocks and of the whole mixer in float32; then milliseconds of forward and
backward of one layer beside grouped-query attention. Exits with 1 if an error is above its bound.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_check import BOUNDS, GRADIENT_BOUNDS, layer_errors, layer_of
from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.mixers._nsa_branches import selected_branch
from efficientllm.models.mixers._nsa_kernel_op import selected_attention
from efficientllm.models.mixers._nsa_select import choose_blocks, entry_probabilities, layout_of

LAYOUTS = {"0.5b": (14, 2, 64), "1.5b": (12, 2, 128), "3b": (16, 2, 128)}
BLOCKS = Blocks(128, 64, 4, 32, 16)
TOKENS = 2000


def main() -> None:
    """Check all layouts, then time one of them."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    failed = False
    for size, heads in LAYOUTS.items():
        for dtype, bound in BOUNDS.items():
            result, gradient = branch_errors(*heads, getattr(torch, dtype))
            failed |= not (result <= bound and gradient <= GRADIENT_BOUNDS[dtype])
            print(f"{size:<5} {dtype:<9} selected branch: error {result:.1e}, gradients {gradient:.1e}", flush=True)
        result, gradient, where, path = layer_errors("nsa", torch.float32, size, 777)
        failed |= not (result <= BOUNDS["float32"] and gradient <= GRADIENT_BOUNDS["float32"])
        print(
            f"{size:<5} float32   whole mixer: error {result:.1e}, gradients {gradient:.1e} ({where})  {path}",
            flush=True,
        )
    for tokens in (2048, 8192, 32768, 65536):
        times = {mixer: 1e3 * step_s(mixer, tokens) for mixer in ("gqa", "nsa")}
        ratio = times["nsa"] / times["gqa"]
        said = "  ".join(f"{name} {ms:8.2f} ms" for name, ms in times.items())
        print(
            f"1.5b layer, bfloat16, {tokens:>6} tokens, forward and backward: {said}  nsa/gqa {ratio:.2f}", flush=True
        )
    sys.exit(int(failed))


def branch_errors(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return the errors of result and gradients of the kernels, against the plain branch in float32."""
    generator = torch.Generator().manual_seed(1)
    q, k, v, pull = (
        torch.randn(1, count, TOKENS, head_dim, generator=generator).cuda()
        for count in (heads, kv_heads, kv_heads, heads)
    )
    here_BT = torch.arange(TOKENS, device="cuda")[None]
    layout = layout_of(BLOCKS, here_BT, BLOCKS.num_entries(TOKENS), TOKENS)
    entries = torch.randn(1, kv_heads, layout.ends_BE.shape[1], head_dim, generator=generator).cuda()
    scale = head_dim**-0.5
    picks = choose_blocks(entry_probabilities(q, entries, layout.visible(), scale), layout, BLOCKS)
    starts = layout.first_keys(picks, BLOCKS)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return selected_branch(q, k, v, picks, layout, BLOCKS, scale)

    def kernels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return selected_attention(q, k, v, starts, scale, BLOCKS.select_block, True)

    low = [x.to(dtype) for x in (q, k, v)]
    wanted = with_gradients(plain, [x.float() for x in low], pull)
    got = with_gradients(kernels, low, pull.to(dtype))
    errors = [float((a.float() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True)]
    return errors[0], max(errors[1:])


def with_gradients(branch: Callable[..., Tensor], inputs: list[Tensor], pull: Tensor) -> list[Tensor]:
    """Return a branch's result and the gradients of its inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = branch(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull)]


def step_s(mixer: str, tokens: int) -> float:
    """Return the median seconds of forward and backward of one layer of 1.5b over one row."""
    layer, position = layer_of(mixer, torch.bfloat16, "1.5b")
    x_BTD = torch.randn(1, tokens, layer.shape.width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    index_BT = torch.arange(tokens, device="cuda")[None]
    times = []
    for _ in range(6):
        torch.cuda.current_stream().synchronize()
        begin_s = time.perf_counter()
        layer(x_BTD, position.at(index_BT, torch.bfloat16)).sum().backward()
        torch.cuda.current_stream().synchronize()
        times.append(time.perf_counter() - begin_s)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
