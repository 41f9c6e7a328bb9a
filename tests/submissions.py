"""A small study as an honest run would leave it, and what a forger may do to it: used by validation's tests and proof.

The series are invented, the figures are those that the real meters make of them, and the real judge looks at each.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import random
from functools import cache

import msgspec

from efficientllm.bench.judging import datasheet_by_info
from efficientllm.meters.samples import Samples
from efficientllm.meters.together import figures_of_all
from efficientllm.physics.judge import judge
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.records.codec import CodecError, decode, encode
from efficientllm.records.environment import DeviceInfo, environment_digests, make_environment
from efficientllm.records.measurement import Ceilings, DataFacts, Measurement, ModelFacts
from efficientllm.records.series import Series
from efficientllm.records.trial import trial_digest
from efficientllm.records.window import Window, Work
from efficientllm.store.bundle import Manifest
from efficientllm.validity.submission import BUNDLE, of_files
from efficientllm.validity.validate import validate

HOST, USER, UUID = "ada-tower", "lovelace", "GPU-c200f6e7-c14b-58c1-af45-5f0bcb233d77"
RECIPE = """\
# Two mixers on one card.
name: small
repeats: 2
baseline: {mixer: mha}
protocol: {name: standard, warmup_steps: 3, cool_down_max_s: 2.0}
workload: pretrain
size: tiny
tokens: 3200
micro_batch: 1
sequence_tokens: 100
axes: {mixer: [mha, mqa]}
"""
CARD = DeviceInfo(
    kind="cuda", name="NVIDIA H200", uuid=UUID, driver="580.1", capacity_bytes=150_754_820_096, power_cap_w=700.0,
    cores=132, last_level_cache_bytes=62_914_560,
)  # fmt: skip
ENVIRONMENT = make_environment(
    devices=(CARD,), python="3.12.3", platform="linux-x86_64", libraries={"torch": "2.11.0"}, code_digest="c0de",
    threads=16, host=HOST,
)  # fmt: skip
CEILINGS = Ceilings(
    matmul_peak_flop_per_s={"float32": 5e13, "bfloat16": 7.8e14}, read_bytes_per_s=4e12, copy_bytes_per_s=4.2e12,
    idle_power_w=78.0, calibration=f"0123456789abcdef-{ENVIRONMENT.id}-0",
)  # fmt: skip
WORK = Work(tokens=100, samples=1, model_flops=2e12, moved_bytes=1e9, working_set_bytes=1e9)
MODEL = ModelFacts(parameters_total=4_000_000, parameters_active=4_000_000, parameters_embedding=500_000,
                   weight_bytes=16_000_000)  # fmt: skip
DATA = DataFacts(corpus="stdlib", corpus_sha256="c" * 64, tokenizer_sha256="t" * 64, train_tokens=9_000_000,
                 heldout_tokens=80_000, heldout_bytes=260_000,
                 details={"tokenizer": f"/home/{USER}/results/tokenizer.json"})  # fmt: skip
STEPS, WARM_UP = 32, 5


def manifest_of(files: dict[str, bytes], anonymised: tuple[str, ...] = ()) -> bytes:
    """Return a manifest that fits some files, as who packs them makes it."""
    records = []
    for name, data in files.items():
        with contextlib.suppress(CodecError):  # who packs what nobody can read says what he can of the rest
            records += [decode(data)] if name.startswith("measurements/") else []
    manifest = Manifest(
        study="small",
        schemas=tuple(sorted({record.schema for record in records})),
        software_versions=tuple(sorted({record.software_version for record in records})),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        anonymised=anonymised,
    )
    return msgspec.json.encode(manifest, order="deterministic")


def honest_files(recipe: str = RECIPE) -> dict[str, bytes]:
    """Return the files of the study, without a manifest."""
    plan = expand(recipe_from_text(recipe, "small.yaml"), "cuda")
    files = {}
    for number, trial in enumerate(plan.trials):
        found = measured(trial, number)
        assert found.outcome == "ok", found.reason
        files[f"measurements/{found.id}.json"] = encode(found)
    text = recipe.encode()
    return {**files, f"recipes/{hashlib.sha256(text).hexdigest()[:8]}.yaml": text}


@cache
def _honest() -> tuple[tuple[str, bytes], ...]:
    return tuple(honest_files().items())


def study() -> dict[str, bytes]:
    """Return the files of the study, made once."""
    return dict(_honest())


def bundled(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Return files as a bundle holds them, the manifest first."""
    return [("manifest.json", manifest_of(files)), *files.items()]


def validated(files: dict[str, bytes] | list[tuple[str, bytes]]):
    """Validate files in memory, with a manifest that fits them where none is given."""
    pairs = files if isinstance(files, list) else bundled(files)
    return validate(of_files("small.tar.xz", BUNDLE, pairs, datasheet_by_info))


def measured(trial, number: int) -> Measurement:
    """Return the record of a trial whose series are drawn by its number."""
    rng = random.Random(f"process {number}")
    step_s = 0.25 if trial.axes["mixer"] == "mha" else 0.2
    begin_s = 8.0 + rng.random()
    loss, steps, at_s = [], [], begin_s
    for index in range(STEPS):
        length_s = step_s * rng.uniform(0.98, 1.02)
        at_s += length_s
        loss.append((at_s + 1e-6, math.log(8192) * rng.uniform(0.99, 1.01) * 0.97**index))
        steps.append((round(at_s, 6), length_s))
        at_s += 1e-5 + 1e-4 * rng.random()
    train_s, end_s = steps[WARM_UP - 1][0] + 2e-6, at_s + 1e-4
    quality_s = end_s + 6.0
    rows = [(end_s + 0.1 + n * 0.05, rng.uniform(120.0, 140.0)) for n in range(40)]
    samples = sampled_by(rng, quality_s + 1.0)
    curve = Window(name="curve", begin_s=begin_s, end_s=end_s, work=WORK, series=(series("loss", "nats/token", loss),))
    train = _window("train", train_s, end_s, samples, series("step_s", "s", steps[WARM_UP:]))
    total = math.fsum(value for _, value in rows)
    quality = _window("quality", end_s + 1e-3, quality_s, samples, series("row_nats", "nats", rows), **{
        "heldout_tokens": 4000.0, "heldout_bytes": 13_000.0, "heldout_nats_per_token": total / 4000,
        "heldout_perplexity": math.exp(total / 4000), "heldout_bits_per_byte": total / math.log(2) / 13_000,
    })  # fmt: skip
    record = Measurement(
        id=f"{trial.id}-{ENVIRONMENT.id}-0",
        trial=trial,
        environment=ENVIRONMENT,
        outcome="ok",
        started_at=f"2026-11-22T21:{10 + number:02d}:05+00:00",
        software_version="0.1.0",
        windows=(curve, train, quality),
        model=MODEL,
        data=DATA,
        ceilings=CEILINGS,
        phases_s={"cool_down": 1.0, "import": 3.0, "load": 2.0, "warmup": train_s - begin_s},
        figures={"first_loss": loss[0][1], "tokens_fed": 3200.0, "idle_power_w": 80.0, "startup_s": train_s},
        absent={"process_id": f"pid 4711 of {USER} on {HOST} has ended"},
    )
    return judge(record, datasheet_by_info(CARD))


def series(name: str, unit: str, points, source: str = "workload") -> Series:
    """Build a series of (time, value)."""
    at_s, values = zip(*points, strict=True)
    return Series(name=name, unit=unit, at_s=tuple(round(at, 6) for at in at_s), values=values, source=source)


def _window(name: str, begin_s: float, end_s: float, samples: Samples, own: Series, **figures: float) -> Window:
    cut, sampled, absent = figures_of_all([samples], begin_s, end_s, [{"idle_power_w": 80.0}])
    return Window(
        name=name, begin_s=begin_s, end_s=end_s, work=WORK, series=(own, *cut), figures={**sampled, **figures},
        absent=absent,
    )  # fmt: skip


def sampled_by(rng: random.Random, end_s: float, device: int = 0) -> Samples:
    """What a sampler saw: a counter that moves every 500 ms, read every 250 ms, and what is held."""
    times = [n * 0.25 for n in range(round(end_s / 0.25))]
    watts = [rng.uniform(380.0, 420.0) for _ in times]
    joules, counter = 0.0, []
    for number, (at, watt) in enumerate(zip(times, watts, strict=True)):
        if number % 2 == 0:
            joules += watt * 0.5
        counter.append((at, round(joules, 3)))
    held = [(at, float(2_000_000_000 + (8_000_000 if at > 5 else 0) + rng.randrange(1_000_000))) for at in times]
    own = [(at, 0.01 * at) for at in times]
    found = [
        series("energy_j", "j", counter, "nvml.total_energy (scope: gpu)"),
        series("power_instant_w", "w", zip(times, watts, strict=True), "nvml.field.power_instant (scope: gpu)"),
        series("process_memory_bytes", "bytes", held, "nvml.processes"),
        series("throttle_reasons", "bits", [(at, 0.0) for at in times[::4]], "nvml.ClocksEventReasons"),
        series("sampler_processor_s", "s", own, "process_time"),
    ]
    found = [msgspec.structs.replace(one, rank=device, device=device) for one in found]
    return Samples(
        device=CARD, series={one.name: one for one in found}, absent={"busy_ratio": "not told"},
        cumulative=frozenset({"energy_j", "sampler_processor_s"}), begin_s=0.0, end_s=end_s, interval_s=0.25,
        processors=16,
    )  # fmt: skip


# what a forger does: edits of a record's JSON, with every hash and id made anew --------------------------------------


def records_of(files: dict[str, bytes]) -> list[dict]:
    """Return the records' JSON, to be edited."""
    return [msgspec.json.decode(data) for name, data in files.items() if name.startswith("measurements/")]


def rehashed(records: list[dict], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files of edited records, all ids and names made anew, with the recipes of the other files."""
    made = {}
    for edited in copy.deepcopy(records):
        trial, environment = edited["trial"], edited["environment"]
        attempt = edited["id"].rpartition("-")[2]
        trial["id"] = trial_digest(trial)
        environment["id"], environment["machine_id"] = environment_digests(environment)
        edited["id"] = f"{trial['id']}-{environment['id']}-{attempt}"
        made[f"measurements/{edited['id']}.json"] = msgspec.json.encode(edited, order="deterministic")
    return {**made, **{name: data for name, data in files.items() if name.startswith("recipes/")}}


def with_recipe(files: dict[str, bytes], recipe: str) -> dict[str, bytes]:
    """Return the files with another recipe in place of theirs, under its own hash."""
    kept = {name: data for name, data in files.items() if name.startswith("measurements/")}
    return {**kept, f"recipes/{hashlib.sha256(recipe.encode()).hexdigest()[:8]}.yaml": recipe.encode()}


def window_of(record: dict, name: str) -> dict:
    """Return a window of a record's JSON."""
    return next(window for window in record["windows"] if window["name"] == name)


def series_of(window: dict, name: str) -> dict:
    """Return a series of a window's JSON."""
    return next(one for one in window["series"] if one["name"] == name)
