"""A synthetic study: four attention variants through pretraining and inference. For tests and for looking at reports.

Its figures are invented, with the sizes and the noise of a small real one; nothing here was measured.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import accumulate

from msgspec.structs import replace

from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.environment import DeviceInfo, Environment, make_environment
from efficientllm.records.grid import Grid
from efficientllm.records.measurement import Ceilings, DataFacts, Measurement, ModelFacts
from efficientllm.records.protocol import PROTOCOLS, Protocol
from efficientllm.records.series import Series
from efficientllm.records.settings import InferenceSettings, PretrainSettings, Settings
from efficientllm.records.trial import Trial, make_trial
from efficientllm.records.window import Caution, Window, Work

_NO_ENERGY = "no energy counter: /sys/class/powercap has no intel-rapl here (virtual machines seldom do)"
_OOM = "OutOfMemoryError: tried to allocate 2.31 GiB for the cache"


@dataclass(frozen=True)
class Variant:
    """One invented technique: what it costs next to multi-head attention, which is 1 in all."""

    name: str
    card: Card
    train_s: float = 1.0
    decode_s: float = 1.0
    memory: float = 1.0
    cache_bytes: float = 4096.0
    parameters: int = 4_470_000
    bits: float = 2.31


VARIANTS = (
    Variant("mha", Card(title="Multi-head attention", source="arXiv:1706.03762")),
    Variant(
        "gqa",
        Card(title="Grouped-query attention", source="arXiv:2305.13245", improves=("memory", "latency"),
             costs=("quality",)),
        0.985, 0.78, 0.86, 2048, 4_210_000, 2.32,
    ),
    Variant(
        "mqa",
        Card(title="Multi-query attention", source="arXiv:1911.02150", improves=("memory", "latency"),
             costs=("quality",)),
        0.96, 0.64, 0.78, 1024, 4_080_000, 2.36,
    ),
    Variant(
        "mla",
        Card(title="Multi-head latent attention", source="arXiv:2405.04434", improves=("memory", "quality"),
             costs=("latency", "compute")),
        1.21, 1.12, 0.74, 576, 4_350_000, 2.27,
    ),
)  # fmt: skip


def example_study(
    *,
    repeats: int = 3,
    kind: str = "cpu",
    energy: bool = False,
    oom: bool = True,
    variants: tuple[Variant, ...] = VARIANTS,
    protocol: Protocol = PROTOCOLS["standard"],
    decode: tuple[Grid, ...] = (Grid(batch=1, tokens=8192), Grid(batch=16, tokens=8192)),
    size: str = "tiny",
    vocab_tokens: int = 2048,
) -> list[Measurement]:
    """Make up a study: round by round, pretraining and then inference of each variant; the first is the baseline.

    Args:
        repeats: rounds.
        kind: `cpu`, or `cuda` for a large card.
        energy: whether the machine has an energy counter.
        oom: whether the baseline runs out of memory at the last point of the decode grid.
        variants: the techniques.
        protocol: of all trials.
        decode: the decode grid.
        size: of the model, in its settings alone: the invented figures stay.
        vocab_tokens: likewise.

    >>> [m.trial.technique() for m in example_study(repeats=1)][:5]
    ['mha', 'gqa', 'mqa', 'mla', 'mha']
    """
    rng = random.Random(7)
    environment = _environment(kind)
    made = []
    for repeat in range(repeats):
        parents = []
        for variant in variants:
            settings: Settings = PretrainSettings(
                mixer=Choice(name=variant.name), size=size, tokens=327_680, vocab_tokens=vocab_tokens
            )
            trial = _trial(settings, variant, repeat, kind, protocol, "pretrain", "")
            parents.append(trial)
            made.append(_pretrained(trial, variant, environment, energy, rng))
        for variant, parent in zip(variants, parents, strict=True):
            settings = InferenceSettings(
                mixer=Choice(name=variant.name), size=size, decode=decode, vocab_tokens=vocab_tokens
            )
            trial = _trial(settings, variant, repeat, kind, protocol, "inference", parent.id)
            made.append(_inferred(trial, variant, environment, energy, oom, rng))
    return [replace(m, started_at=f"2026-11-03T10:{i // 60:02d}:{i % 60:02d}Z") for i, m in enumerate(made)]


def _trial(
    settings: Settings, variant: Variant, repeat: int, kind: str, protocol: Protocol, stage: str, parent: str
) -> Trial:
    return make_trial(
        settings=settings, protocol=protocol, device=kind, seed=repeat, repeat=repeat, parent=parent, stage=stage,
        axes={"mixer": variant.name}, baseline=variant.name == "mha",
    )  # fmt: skip


def _environment(kind: str) -> Environment:
    cpu = DeviceInfo(
        kind="cpu", name="AMD EPYC 7B13", uuid="cpu-0", capacity_bytes=16 << 30, cores=2,
        last_level_cache_bytes=1 << 20,
    )  # fmt: skip
    card = DeviceInfo(
        kind="cuda", name="NVIDIA H200", uuid="GPU-0", driver="580.65", capacity_bytes=150_754_820_096,
        power_cap_w=700.0, cores=132, last_level_cache_bytes=60 << 20,
    )  # fmt: skip
    return make_environment(
        devices=(cpu if kind == "cpu" else card,), python="3.11.9", platform="linux-x86_64",
        libraries={"torch": "2.13.0"}, code_digest="0", threads=2,
    )  # fmt: skip


def _pretrained(
    trial: Trial, variant: Variant, environment: Environment, energy: bool, rng: random.Random
) -> Measurement:
    steps, work = 160, Work(tokens=2048, samples=8, model_flops=5.4e10, moved_bytes=1e8, working_set_bytes=4e8)
    luck = rng.gauss(0, 0.004)
    end = 4.1 + 2 * luck + 0.3 * variant.bits
    loss = [end + 2.8 * (1 - s / steps) ** 3 + rng.gauss(0, 0.05) for s in range(steps)]
    step_s = _steps(0.52 * variant.train_s, steps - 20, rng)
    train = _window("train", 12.0, step_s, work, 0.9e9 * variant.memory, energy, rng)
    at_s = tuple(12.0 - (20 - s) * 0.55 if s < 20 else train.series[0].at_s[s - 20] for s in range(steps))
    curve = Window(
        name="curve", begin_s=0.5, end_s=train.end_s, work=work,
        series=(Series(name="loss", unit="nats/token", at_s=at_s, values=tuple(loss), source="workload"),),
    )  # fmt: skip
    return _measurement(trial, variant, environment, (curve, train), variant.bits * (1 + luck), rng)


def _inferred(
    trial: Trial, variant: Variant, environment: Environment, energy: bool, oom: bool, rng: random.Random
) -> Measurement:
    settings = trial.settings
    assert isinstance(settings, InferenceSettings)
    windows = []
    for grid in settings.prefill:
        work = Work(tokens=grid.batch * grid.tokens, samples=grid.batch, model_flops=4.5e9, moved_bytes=2e7,
                    working_set_bytes=1e8)  # fmt: skip
        step_s = _steps(0.034 * variant.train_s, 120, rng)
        windows.append(_window("prefill", 5.0, step_s, work, 0.3e9 * variant.memory, energy, rng, grid))
    for index, grid in enumerate(settings.decode):
        moved = 17.9e6 + grid.batch * grid.tokens * variant.cache_bytes
        work = Work(tokens=grid.batch, samples=grid.batch, model_flops=9e6 * grid.batch, moved_bytes=moved,
                    working_set_bytes=moved)  # fmt: skip
        if oom and variant.name == "mha" and index == len(settings.decode) - 1:
            windows.append(Window(name="decode", coordinates=_coordinates(grid), outcome="oom", reason=_OOM, work=work))
            continue
        step_s = _steps(0.0071 * variant.decode_s * grid.batch**0.5, 240, rng)
        held = (0.2e9 + grid.batch * 4e7) * variant.memory
        windows.append(_window("decode", 20.0 + 10 * index, step_s, work, held, energy, rng, grid))
    return _measurement(trial, variant, environment, tuple(windows), variant.bits * (1 + rng.gauss(0, 0.004)), rng)


def _steps(typical_s: float, number: int, rng: random.Random) -> tuple[float, ...]:
    luck = rng.gauss(0, 0.006)
    return tuple(typical_s * math.exp(luck + abs(rng.gauss(0, 0.02))) for _ in range(number))


def _coordinates(grid: Grid | None) -> dict[str, int]:
    return {"batch": grid.batch, "tokens": grid.tokens} if grid else {}


def _window(
    name: str, begin_s: float, step_s: tuple[float, ...], work: Work, held_bytes: float, energy: bool,
    rng: random.Random, grid: Grid | None = None,
) -> Window:  # fmt: skip
    at_s = tuple(begin_s + passed for passed in accumulate(step_s))
    every = max(1, len(at_s) // 24)
    sampled = at_s[::every]
    held = tuple(0.35e9 + held_bytes * (1 + rng.gauss(0, 0.004)) for _ in sampled)
    series = [
        Series(name="step_s", unit="s", at_s=at_s, values=step_s, source="time.perf_counter"),
        Series(name="process_memory_bytes", unit="bytes", at_s=sampled, values=held, source="procfs.rss_anon"),
    ]
    length_s, figures = at_s[-1] - begin_s, {}
    if energy:
        watts = 410.0 * (1 + rng.gauss(0, 0.01))
        joules = tuple(watts * (at - begin_s) for at in sampled)
        series.append(Series(name="energy_j", unit="j", at_s=sampled, values=joules, source="nvml.total_energy"))
        figures = {"energy_j": watts * length_s, "edge_error_j": watts * 0.1}
    return Window(
        name=name, coordinates=_coordinates(grid), begin_s=begin_s, end_s=at_s[-1], work=work, series=tuple(series),
        figures=figures, absent={} if energy else {"energy_j": _NO_ENERGY},
    )  # fmt: skip


def _measurement(
    trial: Trial, variant: Variant, environment: Environment, windows: tuple[Window, ...], bits: float,
    rng: random.Random,
) -> Measurement:  # fmt: skip
    nats = bits * math.log(2) * 3.1
    quality = Window(
        name="quality", begin_s=200.0, end_s=204.0, work=Work(tokens=2048, samples=8),
        figures={"heldout_bits_per_byte": bits, "heldout_nats_per_token": nats, "heldout_perplexity": math.exp(nats),
                 "heldout_tokens": 16384.0, "heldout_bytes": 16384 * 3.1},
    )  # fmt: skip
    weight_bytes = 4 * variant.parameters
    short = [w for w in windows if 0 < w.end_s - w.begin_s < 5]
    cautions = tuple(Caution(code="under_5s_window", text=f"{w.label()}: only a few seconds long") for w in short)
    return Measurement(
        id=f"{trial.id}-{environment.id}-0", trial=trial, environment=environment, outcome="ok",
        software_version="0.1.0", windows=(*windows, quality), cautions=cautions,
        model=ModelFacts(
            parameters_total=variant.parameters, parameters_active=variant.parameters, parameters_embedding=524_288,
            weight_bytes=weight_bytes, disk_bytes=weight_bytes + 2048, cache_bytes_per_token=variant.cache_bytes,
            train_flops_per_token=2.6e7,
        ),
        data=DataFacts(
            corpus="stdlib", corpus_sha256="c" * 64, tokenizer_sha256="d" * 64, train_tokens=900_000,
            heldout_tokens=64_000, heldout_bytes=198_400,
        ),
        ceilings=Ceilings(
            matmul_peak_flop_per_s={"float32": 1.9e11}, read_bytes_per_s=2.1e10, copy_bytes_per_s=1.6e10,
            idle_power_w=78.0 if environment.devices[0].kind == "cuda" else None, calibration="cal-0",
        ),
        cards={"mixer": variant.card, "mlp": Card(title="SwiGLU", source="arXiv:2002.05202")},
        figures={"memory_baseline_bytes": 0.35e9, "tokens_fed": 160 * 2048.0, "first_loss": 7.7,
                 "bz2_bits_per_byte": 2.02, "unigram_bits_per_byte": 3.36},
        phases_s={"import": 2.1, "load": 0.4 + rng.random() * 0.1, "warmup": 3.2},
    )  # fmt: skip
