"""Training speed of ours and of the peers on one CUDA device: each case in a process of its own, one after another.

    python benchmarks/pretrain.py [--out FOLDER] [--seconds 540] [--only NAME …] [--profile] [--list]

Same shape, random tokens, AdamW with clipping, bf16 autocast over fp32 weights, the loss read each step. Resumes: what
FOLDER holds is not run again, and no case is begun that would not end within the seconds. The table comes last. Two
runs with a CUDA_VISIBLE_DEVICES each may share FOLDER: every row is judged by the ceiling of its own card.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SEQUENCE, _VOCABULARY = 2048, 151_936
_WIDTHS = (10, 7, 7, 8, 6, 9, 12, 9, 11)


@dataclass(frozen=True)
class Case:
    """One row: who trains what.

    Attributes:
        who: `ours`, or a peer: `transformers`, `liger`.
        rows: of 2048 tokens in a step.
        settings: of ours; `compile` and `size` also of a peer.
        seconds: how long it takes at most, with compilation.
    """

    who: str
    size: str
    rows: int = 8
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 90.0

    @property
    def name(self) -> str:
        """What the table calls it."""
        said = [f"{value}" if key in ("mixer", "mlp") else f"{key}={value}" for key, value in self.settings.items()]
        return " ".join([self.who, self.size, *said, *([f"rows={self.rows}"] if self.rows != 8 else [])])


COMPILED = {"compile": True}
CASES = [
    Case("transformers", "0.5b"),
    Case("ours", "0.5b", settings={"mixer": "gqa", **COMPILED}),
    Case("transformers", "0.5b", settings=COMPILED, seconds=100),
    Case("liger", "0.5b"),
    Case("liger", "0.5b", settings=COMPILED, seconds=100),
    Case("ours", "1.5b", settings={"mixer": "gqa", **COMPILED}),
    Case("ours", "3b", settings={"mixer": "gqa", **COMPILED}),
    Case("ours", "0.5b", settings={"mixer": "mla", **COMPILED}),
    Case("ours", "0.5bx8", settings={"mlp": "moe", **COMPILED}, seconds=120),
    Case("ours", "0.5b", settings={"mixer": "mamba2", **COMPILED}, seconds=100),
    Case("ours", "0.5b", settings={"mixer": "gated_deltanet", **COMPILED}, seconds=100),
    Case("ours", "0.5b", settings={"mixer": "rwkv7", **COMPILED}, seconds=100),
    Case("ours", "1.5bx8", rows=4, settings={"mlp": "moe", "weights_dtype": "bfloat16", **COMPILED}, seconds=100),
]


def ours(case: Case) -> tuple[Any, Any, float]:
    """Return what takes a step and returns its loss, the model's counts, and the memory that shapes predict."""
    import torch

    from efficientllm.devices.choose import open_device
    from efficientllm.models.build import build_decoder
    from efficientllm.models.costs import facts
    from efficientllm.planner.predict import predict_training
    from efficientllm.records.choice import Choice
    from efficientllm.records.settings import PretrainSettings
    from efficientllm.training.loop import TrainLoop
    from efficientllm.training.tokens import StepTokens
    from random_text import RandomText

    slots = {key: Choice(name=value) for key, value in case.settings.items() if key in ("mixer", "position")}
    plain = {key: value for key, value in case.settings.items() if key not in ("mixer", "position", "mlp")}
    settings = PretrainSettings(
        size=case.size, dtype="bfloat16", micro_batch=case.rows, sequence_tokens=_SEQUENCE, learning_rate=1e-4,
        tokens=10**10, **slots, **plain,
    )  # fmt: skip
    device = open_device("cuda")
    dtype = getattr(torch, settings.weights_dtype)
    decoder = build_decoder(settings, vocab_tokens=_VOCABULARY, seed=0, device="cuda", dtype=dtype)
    loop = TrainLoop(decoder, settings, StepTokens(RandomText(_VOCABULARY), settings, device.torch_device(), 0), device)  # type: ignore[arg-type] # has what the loop reads
    predicted = predict_training(settings, _VOCABULARY, "cuda").peak_bytes
    return loop.step, facts(decoder, 2, _SEQUENCE, trains_in=torch.bfloat16), predicted


def peer(case: Case) -> tuple[Any, None, None]:
    """Return what takes a step of transformers' Qwen2, as it comes, compiled, or patched by liger-kernel."""
    import torch
    import transformers

    from efficientllm.models.sizes import SIZES
    from random_text import RandomText

    if case.who == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2()
    shape = SIZES[case.size]
    config = transformers.Qwen2Config(
        vocab_size=_VOCABULARY, hidden_size=shape["width"], num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"], num_key_value_heads=shape["num_kv_heads"],
        intermediate_size=shape["mlp_width"], tie_word_embeddings=shape["tie_embeddings"],
        max_position_embeddings=_SEQUENCE, rope_theta=1e6, use_cache=False,
    )  # fmt: skip
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    run = torch.compile(model) if case.settings.get("compile") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    text, count = RandomText(_VOCABULARY), iter(range(10**9))

    def step() -> float:
        import numpy as np

        first = next(count) * case.rows
        rows = text.rows(np.arange(first, first + case.rows) * _SEQUENCE, _SEQUENCE)
        tokens = torch.from_numpy(rows[:, :-1]).to("cuda", non_blocking=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, None, None


def make(case: Case) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return a case's step, counts and predicted memory."""
    return (*(ours(case) if case.who == "ours" else peer(case)), {})


def print_table(out: Path) -> None:
    """Print all that is stored, with ratios to the fastest peer of the same size."""
    records = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    by_name = {record["name"]: record for record in records}
    peaks = {name.split()[-1]: r["matmul_peak_flops"] for name, r in by_name.items() if "matmul_peak_flops" in r}
    order = [by_name[case.name] for case in CASES if case.name in by_name]
    good = [record for record in order if "failed" not in record]
    flops = {r["size"]: r["flops_per_token"] for r in good if r["settings"].get("mixer") == "gqa"}
    peers = [r for r in good if r["who"] != "ours"]
    compiled = next((r for r in peers if r["who"] == "transformers" and r["settings"].get("compile")), None)
    best = max((r["tokens_per_s"] for r in peers if r["size"] == "0.5b"), default=None)
    said = ", ".join(f"{peak / 1e12:.0f} TFLOP/s on card {number}" for number, peak in peaks.items())
    print(f"matmul_peak {said}; rows of {_SEQUENCE} tokens, vocabulary {_VOCABULARY}")
    heads = ("tokens/s", "MFU %", "GB", "mJ/tok", "W", "start s", "x best peer", "GB ratio", "shapes say")
    print(f"{'case':52}" + "".join(f"{head:>{width}}" for head, width in zip(heads, _WIDTHS, strict=True)))
    for record in order:
        if "failed" in record:
            print(f"{record['name'][:51]:52}{record['failed'][:70]}")
            continue
        per_token = record["flops_per_token"] or flops.get(record["size"])
        peak = peaks.get(record["card"])
        mfu = f"{100 * record['tokens_per_s'] * per_token / peak:.1f}" if peak and per_token else "-"
        same = record["size"] == "0.5b" and best
        print(
            f"{record['name'][:51]:52}{record['tokens_per_s']:10,.0f}{mfu:>7}{record['peak_bytes'] / 1e9:7.1f}"
            f"{1e3 * record['energy_per_token_j']:8.1f}{record['power_mean_w']:6.0f}{record['startup_s']:9.1f}"
            + (f"{record['tokens_per_s'] / best:12.2f}" if same else f"{'-':>12}")
            + (f"{record['peak_bytes'] / compiled['peak_bytes']:9.2f}" if same and compiled else f"{'-':>9}")
            + (f"{record['predicted_peak_bytes'] / 1e9:8.1f} GB" if record["predicted_peak_bytes"] else f"{'-':>11}")
        )


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/tmp/efficientllm-inductor")
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))
    from measured import Bench, arguments, go

    given = arguments(__doc__, "/tmp/efficientllm-pretrain").parse_args()
    go(Bench(__file__, _SEQUENCE, CASES, make, print_table), given)
