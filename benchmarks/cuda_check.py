"""Every mixer on a CUDA device: captured decode, and many tokens at once with gradients, against the plain reference.

    python benchmarks/cuda_check.py [MIXER ...]

Prints two lines a mixer and number format, with the kernels that ran; exits with 1 if anything is further from the
reference than its number format explains. The reference computes in float32, without TF32, from the same weights: those
of the format, so that the weights' own rounding does not count.
"""

from __future__ import annotations

import sys
import time

import torch

from efficientllm import catalog
from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.engines.native import ENTRY
from efficientllm.models.build import assemble, build_decoder
from efficientllm.models.initial import initialise
from efficientllm.models.mixers._contract import Mixer
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.position._contract import Position
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings

VOCAB_TOKENS, PROMPT, STEPS = 2048, 100, 20
#: Rows and tokens of the training check; no chunk or block size divides the tokens.
ROWS, TOKENS = 2, 333
#: ‖out − reference‖ / ‖reference‖ of one layer that float32 arithmetic (tf32 off) and bfloat16 explain …
BOUNDS = {"float32": 1e-3, "bfloat16": 3e-2}
#: … and of the logits of the whole model, the worst of all steps.
DECODE_BOUNDS = {"float32": 1e-3, "bfloat16": 5e-2}
#: The same for gradients, of which the worst parameter counts: they pass the arithmetic twice.
GRADIENT_BOUNDS = {"float32": 2e-3, "bfloat16": 1e-1}


def main() -> None:
    """Check and time every mixer of the folder, or those named, in both formats."""
    device = open_device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    failed = False
    for mixer in sys.argv[1:] or catalog.names("mixer"):
        for dtype, bound in BOUNDS.items():
            error, step_s = decode_error(mixer, dtype, device)
            allowed = DECODE_BOUNDS[dtype]
            print(f"{mixer:<15} {dtype:<9} decode error {error:.1e} (bound {allowed:.0e})  {1e6 * step_s:7.1f} us/step")
            result, gradient, where, path = layer_errors(mixer, getattr(torch, dtype))
            print(
                f"{mixer:<15} {dtype:<9} layer  error {result:.1e} (bound {bound:.0e})  gradients {gradient:.1e} "
                f"({where}, bound {GRADIENT_BOUNDS[dtype]:.0e})  path: {path}",
                flush=True,
            )
            # Not `>`: NaN is above no bound.
            failed |= not (error <= allowed and result <= bound and gradient <= GRADIENT_BOUNDS[dtype])
    sys.exit(int(failed))


def settings_of(mixer: str, dtype: str) -> InferenceSettings:
    """Return the tiny model with this mixer and a position encoding that it can serve."""
    return InferenceSettings(mixer=Choice(name=mixer), position=Choice(name=position_with(mixer)), dtype=dtype)


def decode_error(mixer: str, dtype: str, device: Device) -> tuple[float, float]:
    """Return the relative error of captured decode against one float32 pass over all tokens, and the step's seconds.

    The graph is recorded at the first decode, in the middle of the text, and the first tokens are decoded once more
    after a rewind: so the error also covers what recording and going back leave behind.
    """
    settings = settings_of(mixer, dtype)
    tokens_BT = torch.randint(VOCAB_TOKENS, (2, PROMPT + STEPS), generator=torch.Generator().manual_seed(1)).cuda()
    kind = getattr(torch, dtype)
    reference = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", dtype=kind).float()
    with torch.inference_mode():
        wanted_BTV = reference(tokens_BT)
    engine = ENTRY.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", threads=0)
    engine.begin(2, PROMPT + STEPS)
    engine.prefill(tokens_BT[:, : PROMPT // 3])
    engine.prefill(tokens_BT[:, PROMPT // 3 : PROMPT])
    engine.mark()
    worst = 0.0
    for places in (range(PROMPT, PROMPT + STEPS // 2), range(PROMPT, PROMPT + STEPS)):
        engine.rewind(PROMPT)
        for t in places:
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


def layer_errors(
    mixer: str, dtype: torch.dtype, size: str = "tiny", tokens: int = TOKENS
) -> tuple[float, float, str, str]:
    """Return relative errors of one layer's result and of its worst gradient, whose that is, and what computed it."""
    (plain, position), (fast, _) = layer_of(mixer, dtype, size), layer_of(mixer, dtype, size)
    plain.float()
    width = plain.shape.width
    generator = torch.Generator().manual_seed(2)
    x_BTD, pull_BTD = (torch.randn(ROWS, tokens, width, generator=generator).cuda() for _ in range(2))
    index_BT = torch.arange(tokens, device="cuda")[None]
    results = []
    for layer, call in ((plain, plain.reference), (fast, fast)):
        kind = next(layer.parameters()).dtype
        given_BTD = x_BTD.to(kind, copy=True).requires_grad_()
        out_BTD = call(given_BTD, position.at(index_BT, kind))
        out_BTD.backward(pull_BTD.to(kind))
        assert given_BTD.grad is not None
        gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
        results.append((out_BTD.detach(), {"input": given_BTD.grad, **gradients}))
    (wanted, wanted_gradients), (got, got_gradients) = results
    errors = {name: _error(got_gradients[name], wanted) for name, wanted in wanted_gradients.items()}
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return _error(got, wanted), errors[worst], worst, fast.implementation(dtype, gradients=True)


def layer_of(mixer: str, dtype: torch.dtype, size: str = "tiny") -> tuple[Mixer, Position]:
    """Return a mixer of a size on the device, rough enough for faults to show, and its position encoding."""
    choice, position = Choice(name=mixer), Choice(name=position_with(mixer))
    settings = ModelSettings(size=size, mixer=choice, position=position, shape={"num_layers": 1})
    decoder = assemble(resolve_shape(settings, VOCAB_TOKENS), settings, device="cpu", dtype=torch.float32)
    initialise(decoder, 0, 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.block(0).mixer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
    decoder.to("cuda", dtype)
    return decoder.block(0).mixer, decoder.position


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


if __name__ == "__main__":
    main()
