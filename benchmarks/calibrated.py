"""What rounding to four bits costs a model really trained here, by rounding to nearest and by GPTQ.

A small decoder is trained for a minute or two on the standard library's sources; then its held-out loss in float32 is
set beside that of its packed forms. `python benchmarks/calibrated.py [steps] [device]`.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from tempfile import gettempdir

import torch

from efficientllm.data.order import TrainOrder
from efficientllm.data.prepare import Prepared, judged_rows, prepare
from efficientllm.models.build import build_decoder
from efficientllm.models.calibrate import calibration_rows
from efficientllm.models.decoder import Decoder
from efficientllm.models.pack_decoder import pack_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

SETTINGS = ModelSettings(
    shape={"num_layers": 4, "width": 256, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 704},
    vocab_tokens=2048,
    sequence_tokens=128,
)
ROWS, RATE, SEED = 16, 2e-3, 0
FORMATS = [
    Choice(name=name, options={"group": group, **more})
    for group in (64, 128, 1024)
    for name, more in (("int4", {}), ("gptq", {}), ("gptq", {"act_order": False}))
]


def train(prepared: Prepared, steps: int, device: str) -> Decoder:
    """Return a decoder after so many steps of AdamW, with the rate falling to nothing in a line."""
    vocabulary = prepared.tokenizer.vocab_tokens
    decoder = build_decoder(SETTINGS, vocab_tokens=vocabulary, seed=SEED, device=device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 20) * (1 - step / steps))
    order = TrainOrder(prepared.train.num_tokens, SETTINGS.sequence_tokens, SEED)
    for step in range(steps):
        rows = torch.from_numpy(prepared.train.rows(order.rows(step, ROWS), SETTINGS.sequence_tokens)).to(device)
        loss = decoder.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        falling.step()
    return decoder.eval()


def heldout_loss(decoder: Decoder, rows: torch.Tensor) -> float:
    """Return the mean loss in nats a token."""
    nats, count = 0.0, 0
    for part in rows.split(16):
        total, number = decoder.loss_sum(part[:, :-1], part[:, 1:])
        nats, count = nats + float(total), count + int(number)
    return nats / count


def main() -> None:
    """Train, pack, and print one line a format."""
    steps, device = int(sys.argv[1]) if len(sys.argv) > 1 else 300, sys.argv[2] if len(sys.argv) > 2 else "cpu"
    prepared = prepare(
        SETTINGS, Path(gettempdir()) / "efficientllm-calibrated", steps * ROWS * SETTINGS.sequence_tokens
    )
    rows = torch.from_numpy(judged_rows(prepared.heldout, SETTINGS)[0]).to(device)
    began = time.perf_counter()
    decoder = train(prepared, steps, device)
    plain = heldout_loss(decoder, rows)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s; held-out loss in float32 {plain:.4f}", flush=True)
    for choice in FORMATS:
        packed, began = copy.deepcopy(decoder), time.perf_counter()
        pack_decoder(packed, choice, calibration_rows(choice, prepared.train, SETTINGS.sequence_tokens, SEED))
        took = time.perf_counter() - began
        print(f"{choice.label():34} +{heldout_loss(packed, rows) - plain:.4f} nats a token, packed in {took:.1f} s")


if __name__ == "__main__":
    main()
