"""Mixture of experts on a CUDA device: fast paths against the reference, captured decode, and training speed.

    python benchmarks/cuda_moe.py                  all of it, about two minutes
    python benchmarks/cuda_moe.py --no-speed       results only

Prints a line a case; exits with 1 if any result is further from the reference than its number format explains, or if
a path waits for the device where it must not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.engines.native import ENTRY as NATIVE
from efficientllm.models.build import build_decoder
from efficientllm.models.initial import initialise
from efficientllm.models.mlp.moe import MixtureOfExperts
from efficientllm.models.shape import resolve_shape
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings

#: ‖out − reference‖ / ‖reference‖ that the number format explains (tf32 off).
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}
VOCAB_TOKENS, TOKENS = 2048, 16384


def main() -> None:
    """Run the checks, then the timings."""
    device = open_device("cuda")
    ok = [path_case(*case) for case in PATH_CASES]
    ok += [autocast_case(), no_wait_case(), compile_case()]
    ok += [
        decode_case(dtype, batch, balance) for dtype in BOUNDS for batch in (1, 3, 32) for balance in ("loss", "bias")
    ]
    if "--no-speed" not in sys.argv:
        speed(device)
    sys.exit(int(not all(ok)))


#: (dtype, path, tokens, skewed): a skewed router leaves an expert without tokens.
PATH_CASES = [
    (dtype, path, number, skewed)
    for dtype in BOUNDS
    for path in ("grouped", "split", "gathered", "masked")
    if not (dtype == "float32" and path == "grouped")  # which takes bfloat16 alone
    for number in ((1, 3) if path == "gathered" else (1, 37, 1000))  # which is for steps of a few tokens
    for skewed in (False, True)
]


def layer(dtype: torch.dtype, size: str = "tiny", **options: int | str) -> MixtureOfExperts:
    """Return a layer with first weights that are rough enough to show faults."""
    with torch.device("cuda"):
        mlp = MixtureOfExperts(resolve_shape(ModelSettings(size=size), VOCAB_TOKENS), **options)  # type: ignore[arg-type]
    initialise(mlp, 0, 1)
    with torch.no_grad():
        mlp.router.linear.weight.mul_(20)
    return mlp.to(dtype)


def vectors(number: int, width: int, seed: int = 0) -> Tensor:
    """Return random rows MD in float32, on the device, of numbers that bfloat16 holds too."""
    rows = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    return rows.bfloat16().float().cuda()


def gradients(run: Callable[[Tensor], Tensor], mlp: MixtureOfExperts, x_MD: Tensor, pull_MD: Tensor) -> list[Tensor]:
    """Return the result, and the gradients of the input and of every trained parameter."""
    x_MD = x_MD.clone().requires_grad_()
    mlp.zero_grad()
    out_MD = run(x_MD)
    out_MD.backward(pull_MD.to(out_MD.dtype))
    found = [out_MD.detach(), x_MD.grad, *(p.grad for p in mlp.parameters() if p.requires_grad)]
    return [one.float() for one in found if one is not None]


def worst_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest relative error; NaN counts as infinite."""
    errors = [float((a - b).norm() / b.norm().clamp(min=1e-20)) for a, b in zip(got, wanted, strict=True)]
    return max(float("inf") if error != error else error for error in errors)


def say(what: str, error: float, bound: float) -> bool:
    """Print a line and return whether the error is within its bound."""
    print(f"{'ok  ' if error <= bound else 'FAIL'} {what:<58} error {error:.1e} (bound {bound:.0e})", flush=True)
    return error <= bound


def path_case(dtype: str, path: str, number: int, skewed: bool) -> bool:
    """Hold a path's result and gradients to the float32 reference of the same weights."""
    low = layer(getattr(torch, dtype))
    x_MD, pull_MD = vectors(number, low.shape.width), vectors(number, low.shape.width, 1)
    if skewed:
        x_MD[:, 0] = 3.0
        with torch.no_grad():
            low.router.linear.weight[:, 0] = torch.tensor([-9.0, 0, 0, 0, 0, 9.0, 0, 0])
    full = layer(torch.float32)
    full.load_state_dict(low.state_dict())
    wanted = gradients(full.reference, full, x_MD, pull_MD)
    got = gradients(lambda x: low.compute(x, low.router(x), path), low, x_MD.to(low.down.weight.dtype), pull_MD)
    return say(f"{dtype} {path} {number} tokens{' skewed' * skewed}", worst_error(got, wanted), BOUNDS[dtype])


def autocast_case() -> bool:
    """Hold training in bfloat16 autocast over float32 weights to the reference; it must take the grouped path."""
    mlp = layer(torch.float32)
    x_BTD, pull = vectors(1000, mlp.shape.width)[None], vectors(1000, mlp.shape.width, 1)[None]
    wanted = gradients(mlp.reference, mlp, x_BTD, pull)
    with torch.autocast("cuda", torch.bfloat16):
        named = mlp.implementation(torch.bfloat16, gradients=True)
        got = gradients(mlp, mlp, x_BTD, pull)
    return say(f"autocast over float32 weights, by {named}", worst_error(got, wanted), BOUNDS["bfloat16"]) and (
        named == "grouped" or torch.cuda.get_device_capability()[0] < 9
    )


def no_wait_case() -> bool:
    """A training step of the layer must not wait for the device."""
    mlp = layer(torch.float32, balance="bias", aux_loss=1, z_loss=1)
    x_BTD = vectors(1000, mlp.shape.width)[None].requires_grad_()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            out = mlp(x_BTD).float().square().mean()
        torch.stack([out, *mlp.losses().values()]).sum().backward()
        mlp.after_step()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        print(f"FAIL a training step waits for the device: {error}", flush=True)
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print("ok   a training step never waits for the device", flush=True)
    return True


def compile_case() -> bool:
    """The compiled loss of a decoder must be one graph and give what the eager one gives."""
    settings = ModelSettings(mlp=Choice(name="moe", options={"z_loss": 0.001}))
    tokens_BT = torch.randint(VOCAB_TOKENS, (2, 65), generator=torch.Generator().manual_seed(1)).cuda()
    results = []
    for compiled in (False, True):
        decoder = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda")
        with torch.no_grad():  # routers so decided that no rounding tips a choice: that would be no fault of the graph
            for block in decoder.blocks:
                block.mlp.router.linear.weight.mul_(10.0)
        run = torch.compile(decoder.losses, fullgraph=True) if compiled else decoder.losses
        for _ in range(3):
            decoder.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss, extra = run(tokens_BT[:, :-1], tokens_BT[:, 1:])
            assert extra is not None
            (loss + extra).backward()
            decoder.after_step()
        results.append([loss.detach(), extra.detach(), *(p.grad for p in decoder.parameters() if p.grad is not None)])
    return say("compiled training loss, one graph", worst_error(results[1], results[0]), 5e-2)


def decode_case(dtype: str, batch: int, balance: str) -> bool:
    """Hold captured decode to one float32 pass over all tokens, with weights that the format holds."""
    settings = InferenceSettings(mlp=Choice(name="moe", options={"balance": balance}), dtype=dtype)  # type: ignore[arg-type]
    tokens_BT = torch.randint(VOCAB_TOKENS, (batch, 60), generator=torch.Generator().manual_seed(1)).cuda()
    low = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", dtype=getattr(torch, dtype))
    reference = build_decoder(settings, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda")
    reference.load_state_dict(low.state_dict())
    engine = NATIVE.open(settings, folder=None, vocab_tokens=VOCAB_TOKENS, seed=0, device="cuda", threads=0)
    with torch.inference_mode():
        wanted_BTV = reference.eval()(tokens_BT)
    engine.begin(batch, 60)
    engine.prefill(tokens_BT[:, :40])
    # a token whose choice of experts is a near tie may choose otherwise in another format: the median step is judged
    errors = []
    for place in range(40, 60):
        got_BV = engine.decode(tokens_BT[:, place]).float()
        errors.append(float((got_BV - wanted_BTV[:, place]).norm() / wanted_BTV[:, place].norm()))
    engine.close()
    bound = {"float32": 1e-3, "bfloat16": 5e-2}[dtype]
    return say(f"captured decode {dtype} batch {batch} balance={balance}", sorted(errors)[len(errors) // 2], bound)


def speed(device: Device) -> None:
    """Time one layer of 0.5b × 8 over 16,384 tokens by path, and a captured decode step of the whole model."""
    mlp = layer(torch.bfloat16, "0.5b")
    with torch.no_grad():
        mlp.router.linear.weight.div_(20)
    x_BTD = vectors(TOKENS, mlp.shape.width)[None].bfloat16().requires_grad_()
    dense = layer(torch.bfloat16, "0.5b", num_experts=1, active_experts=1, expert_width=2 * mlp.shape.mlp_width)
    print(f"\none layer of 0.5b x 8, {TOKENS} tokens, bf16{'forward':>22}{'+ backward':>14}{'TFLOP/s':>10}")
    for name, used, path in (
        ("grouped", mlp, "grouped"),
        ("split, a product an expert", mlp, "split"),
        ("every expert over all tokens", mlp, "masked"),
        ("dense of the active width", dense, "masked"),
    ):
        x_MD = x_BTD[0]

        def forward(used: MixtureOfExperts = used, path: str = path, x_MD: Tensor = x_MD) -> Tensor:
            return used.compute(x_MD, used.router(x_MD), path)

        def both(forward: Callable[[], Tensor] = forward) -> None:
            out = forward()
            out.backward(torch.ones_like(out))

        forward_s, both_s = event_seconds(forward), event_seconds(both)
        rate = 3 * mlp.model_flops(TOKENS) / both_s / 1e12
        print(f"  {name:<40}{1e3 * forward_s:>16.2f} ms{1e3 * both_s:>11.2f} ms{rate:>10.0f}")
    del mlp, dense
    decode_speed(device)


def decode_speed(device: Device) -> None:
    """Time captured decode of 0.5b × 8 and say how far from the device's reads it is."""
    settings = InferenceSettings(size="0.5b", mlp=Choice(name="moe"), dtype="bfloat16")
    engine = NATIVE.open(settings, folder=None, vocab_tokens=32768, seed=0, device="cuda", threads=0)
    facts = engine.facts()
    stored, active = facts.parameters_total / 1e9, facts.parameters_active / 1e9
    print(f"\ndecode of 0.5b x 8 ({stored:.2f} G parameters, {active:.2f} G active), context 512")
    for batch in (1, 8, 64):
        engine.begin(batch, 600)
        engine.prefill(torch.zeros(batch, 512, dtype=torch.int64))
        tokens_B = torch.zeros(batch, dtype=torch.int64, device="cuda")

        def step(tokens_B: Tensor = tokens_B) -> None:
            engine.rewind(512)
            engine.decode(tokens_B)

        step_s = event_seconds(step)
        moved = engine.decode_work(batch, 512).moved_bytes  # for tokens that differ; here all are alike: fewer
        print(
            f"  batch {batch:<4}{1e3 * step_s:>8.3f} ms   at most {moved / step_s / 1e12:.2f} TB/s of weights and cache"
        )
    engine.close()
    device.synchronize()


def event_seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Return the median seconds of a call, by the device's own events."""
    for _ in range(5):
        run()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(sorted(times)[repeats // 2])


if __name__ == "__main__":
    main()
