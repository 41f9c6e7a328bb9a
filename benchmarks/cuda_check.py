"""Every mixer on a CUDA device: captured decode against a full forward pass, training loss, and decode speed.

    python benchmarks/cuda_check.py

Prints a line a mixer; exits with 1 if any logits are further from the reference than its number format explains.
"""

from __future__ import annotations

import sys
import time

import torch

from efficientllm import catalog
from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.engines.native import ENTRY
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

VOCAB_TOKENS, PROMPT, STEPS = 2048, 100, 20
#: ‖out − reference‖ / ‖reference‖ that float32 arithmetic (tf32 off) and bfloat16 explain.
BOUNDS = {"float32": 1e-3, "bfloat16": 3e-2}


def main() -> None:
    """Check and time every mixer of the folder in both formats."""
    device = open_device("cuda")
    failed = False
    for mixer in catalog.names("mixer"):
        for dtype, bound in BOUNDS.items():
            error, step_s = decode_error(mixer, dtype, device)
            failed |= error > bound
            print(
                f"{mixer:<6} {dtype:<9} error {error:.1e} (bound {bound:.0e})  {1e6 * step_s:7.1f} us/step", flush=True
            )
    sys.exit(int(failed))


def decode_error(mixer: str, dtype: str, device: Device) -> tuple[float, float]:
    """Return the relative error of captured decode against one float32 pass over all tokens, and the step's seconds."""
    settings = InferenceSettings(mixer=Choice(name=mixer), dtype=dtype)
    tokens_BT = torch.randint(VOCAB_TOKENS, (2, PROMPT + STEPS), generator=torch.Generator().manual_seed(1)).cuda()
    reference = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda")
    with torch.inference_mode():
        wanted_BTV = reference(tokens_BT)
    engine = ENTRY.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", threads=0)
    engine.begin(2, PROMPT + STEPS)
    engine.prefill(tokens_BT[:, :PROMPT])
    worst = 0.0
    for t in range(PROMPT, PROMPT + STEPS):
        got_BV = engine.decode(tokens_BT[:, t]).float()
        want_BV = wanted_BTV[:, t]
        worst = max(worst, float((got_BV - want_BV).norm() / want_BV.norm()))
    times = []
    for _ in range(100):
        engine.rewind(PROMPT)
        device.synchronize()
        begin_s = time.perf_counter()
        engine.decode(tokens_BT[:, PROMPT])
        device.synchronize()
        times.append(time.perf_counter() - begin_s)
    engine.close()
    return worst, sorted(times)[50]


if __name__ == "__main__":
    main()
