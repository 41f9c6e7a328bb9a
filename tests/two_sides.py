"""Two sides to compare: a synthetic study, and the same with one planted difference. Nothing here was measured."""

from __future__ import annotations

import math
import random

from msgspec.structs import replace

from efficientllm.analysis.comparison_side import make_side
from efficientllm.analysis.comparison_table import Options, compare_sides
from efficientllm.analysis.examples import example_study
from efficientllm.records.environment import DeviceInfo, make_environment
from efficientllm.records.trial import Trial

STUDY = example_study(repeats=5, oom=False)


def planted(records=STUDY, *, stage="", technique="", window="", seconds=1.0, memory=1.0, noise=0.002, seed=1):
    """Return the records with steps so many times as long, or so much memory, where stage and technique fit."""
    rng = random.Random(seed)
    made = []
    for record in records:
        fits = record.trial.stage.startswith(stage) and technique in ("", record.trial.technique())
        windows = []
        for one in record.windows:
            here = fits and one.name.startswith(window)
            factors = {"step_s": seconds if here else 1.0, "process_memory_bytes": memory if here else 1.0}
            series = [
                replace(s, values=tuple(v * factors.get(s.name, 1.0) * luck for v in s.values))
                for s in one.series
                for luck in [math.exp(rng.gauss(0, noise)) if s.name in factors else 1.0]
            ]
            windows.append(replace(one, series=tuple(series)))
        made.append(replace(record, windows=tuple(windows)))
    return made


def of_commit(records, commit):
    """Return the records as if the code of this commit had measured them."""
    return [moved(r, git_commit=commit, code_digest=commit) for r in records]


def moved(record, **changes):
    """Return a record of another environment; its id follows."""
    old = record.environment
    names = ("devices", "python", "platform", "libraries", "code_digest", "threads", "git_commit")
    new = make_environment(**{name: changes.get(name, getattr(old, name)) for name in names})
    return replace(record, environment=new, id=f"{record.trial.id}-{new.id}-0")


def on_machine(records, name, *, peak=1.0, calibrated=True):
    """Return the records as if another machine had measured them, with ceilings so many times as high."""
    device = DeviceInfo(kind="cuda", name=name, uuid=name, capacity_bytes=1 << 40, last_level_cache_bytes=1 << 20)
    made = []
    for record in records:
        ceilings = record.ceilings
        higher = replace(
            ceilings,
            matmul_peak_flop_per_s={k: v * peak for k, v in ceilings.matmul_peak_flop_per_s.items()},
            read_bytes_per_s=ceilings.read_bytes_per_s * peak,
            copy_bytes_per_s=ceilings.copy_bytes_per_s * peak,
        )
        figures = record.figures | {"memory_baseline_bytes": 0.35e9}
        made.append(replace(moved(record, devices=(device,)), ceilings=higher if calibrated else None, figures=figures))
    return made


def with_trial(record, **changes):
    """Return a record whose trial differs in these fields."""
    fields = {name: getattr(record.trial, name) for name in Trial.__struct_fields__}
    return replace(record, trial=Trial(**(fields | changes)))


def compare(a, b, **options):
    """Compare two lists of records."""
    sides = [make_side(name, {"study": records}) for name, records in (("a", a), ("b", b))]
    return compare_sides(*sides, Options(**options))


def found(table, **wanted):
    """Return the one difference with these fields; a conclusion if `other` is given, an end if an outcome is."""
    metric = wanted.pop("metric", "")
    ends = any(key.startswith("outcome") for key in wanted)
    rows = table.ended if ends else table.conclusions if "other" in wanted else table.differences
    fitting = [
        row
        for row in rows
        if all(getattr(row, key) == value for key, value in wanted.items()) and (not metric or row.column.key == metric)
    ]
    assert len(fitting) == 1, f"{len(fitting)} rows with {wanted} {metric}"
    return fitting[0]
