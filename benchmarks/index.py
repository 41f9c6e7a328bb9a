"""How long SQL over many measurements takes: building the sqlite index, asking it, and reading all the JSON instead.

    python benchmarks/index.py [NUMBER]

Prints one line a step and, last, all of it as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from efficientllm.records.codec import encode
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.series import Series
from efficientllm.store.folder import Study
from efficientllm.store.index import Index

Result = TypeVar("Result")
_TECHNIQUES = ("mha", "gqa", "mqa", "mla", "nsa")
_SQL = (
    "SELECT technique, count(*), avg(value) FROM measurements JOIN figures USING (measurement) "
    "WHERE name = 'heldout_bits_per_byte' GROUP BY technique"
)


def main(number: int) -> None:
    """Measure with `number` small synthetic measurements in a temporary folder."""
    told: dict[str, float] = {"measurements": number}
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), "synthetic")
        study.check_writable()
        told["json_bytes"] = _fill(study, number)
        index = Index(study)
        _timed(told, "build_s", index.refresh)
        told["index_bytes"] = study.index_file.stat().st_size
        _timed(told, "refresh_unchanged_s", index.refresh)
        _, answer = _timed(told, "query_s", lambda: index.query(_SQL))
        _timed(told, "count_s", lambda: index.query("SELECT count(*) FROM measurements"))
        scanned = _timed(told, "json_scan_s", lambda: _scan(study))
    assert {row[0]: row[1] for row in answer} == scanned, "index and files disagree"
    print(json.dumps(told))


def _fill(study: Study, number: int) -> int:
    """Write measurements as plain files, without the syncing that `Study.write` does for each; return their bytes."""
    used = Series(name="", unit="bytes", at_s=(0.0, 1.0, 2.0), values=(1e9, 2e9, 2e9), source="psutil.uss")
    total = 0
    for place in range(number):
        axes = {"mixer": _TECHNIQUES[place % len(_TECHNIQUES)]}
        measurement = example_measurement(
            trial=example_trial(axes=axes, repeat=place),
            step_s=tuple(0.1 + 0.001 * (step % 7) for step in range(20)),
            figures={"heldout_bits_per_byte": 2.0 + place % 10 / 10, "heldout_loss": 3.0},
            used_bytes=used,
        )
        data = encode(msgspec.structs.replace(measurement, id=f"{measurement.trial.id}-{measurement.environment.id}-0"))
        study.measurement_file(f"{measurement.trial.id}-{measurement.environment.id}-0").write_bytes(data)
        total += len(data)
    return total


def _scan(study: Study) -> dict[str, int]:
    """Answer the query's count by reading every file."""
    counts: dict[str, int] = {}
    for measurement in study.measurements():
        technique = measurement.trial.technique()
        counts[technique] = counts.get(technique, 0) + 1
    return counts


def _timed(told: dict[str, float], name: str, work: Callable[[], Result]) -> Result:
    begin_s = time.perf_counter()
    result = work()
    told[name] = round(time.perf_counter() - begin_s, 3)
    print(f"{name:22} {told[name]:8.3f}")
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
