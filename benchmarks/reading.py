"""How long reading takes with many measurements: `rank` and `report`, each in a process of its own.

    python benchmarks/reading.py [NUMBER] [--keep FOLDER] [--profile]

Makes NUMBER (10,000) synthetic measurements as large as real ones: five studies, in each two stages under 25 conditions
(with 10,000) with eight techniques in five repeats, and `everything`, one study with all of them. Prints a line a
command (seconds, seconds of processor time, peak resident memory, bytes written) and, last, all of it as JSON; exits 1
where a target is missed. With `--keep` the studies stay there and are taken again; with `--profile` it says where the
time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace as with_fields
from itertools import count
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from efficientllm.analysis.examples import VARIANTS, Variant, example_study
from efficientllm.records.codec import encode
from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.store.folder import Study

#: A study a size of the model.
_SIZES = ("tiny", "small", "0.5b", "1.5b", "3b")
_MIXERS = ("mha", "gqa", "mqa", "mla", "nsa", "mamba2", "rwkv7", "gated_deltanet")
_REPEATS = 5
#: What the meters of a card sample beside memory and energy, and of how many points: as in the records of real cards.
_SAMPLED = {"busy_ratio": "ratio", "power_w": "w", "power_instant_w": "w", "device_memory_bytes": "bytes",
            "sm_activity_ratio": "ratio", "dram_activity_ratio": "ratio", "clock_hz": "count"}  # fmt: skip
_POINTS = 40
#: Seconds and bytes that may not be passed, with 10,000 measurements.
_MOST_S = {"rank": 3.0, "rank again": 3.0, "rank two": 3.0, "report": 10.0}
_MOST_MEMORY_BYTES, _MOST_PAGE_BYTES = 1 << 30, 6_000_000


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int, nargs="?", default=10_000)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asked.keep or Path(folder)
        held_bytes = _fill(results, asked.number)
        print(f"{asked.number} measurements, {held_bytes / asked.number / 1e3:.0f} kB each")
        if asked.profile:
            _profile(results)
            return 0
        told, missed = _measure_all(results)
    print(json.dumps({"measurements": asked.number, "json_bytes": held_bytes, **told, "missed": missed}))
    return 1 if missed else 0


def _measure_all(results: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Run each command; return its figures, and what missed its target."""
    page = results / "page.html"
    commands = {
        "rank": ["rank", "everything"],
        "rank again": ["rank", "everything"],
        "rank two": ["rank", "everything", "tiny"],
        "report": ["report", "everything", "--output", str(page)],
    }
    told, missed = {}, []
    for name, command in commands.items():
        figures = _run([*command, "--results", str(results)])
        if name == "report":
            figures["written_bytes"] = page.stat().st_size
            missed += ["size of the page"] if figures["written_bytes"] > _MOST_PAGE_BYTES else []
        missed += [f"{name}: time"] if figures["elapsed_s"] > _MOST_S[name] else []
        missed += [f"{name}: memory"] if figures["peak_bytes"] > _MOST_MEMORY_BYTES else []
        told[name] = figures
        seconds = f"{figures['elapsed_s']:7.2f} s, processor {figures['cpu_s']:6.2f} s"
        print(f"{name:12} {seconds}, {figures['peak_bytes'] >> 20:5.0f} MiB, {figures['written_bytes'] / 1e6:6.2f} MB")
    return told, missed


def _run(arguments: list[str]) -> dict[str, Any]:
    """Run the command line in a fresh process; return its seconds, its peak memory and what it printed."""
    begin_s = time.perf_counter()
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen([sys.executable, "-m", "efficientllm.cli.main", *arguments], stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed_s = time.perf_counter() - begin_s
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
        written = printed.seek(0, os.SEEK_END)
    cpu_s = used.ru_utime + used.ru_stime
    return {
        "elapsed_s": round(elapsed_s, 3),
        "cpu_s": round(cpu_s, 3),
        "peak_bytes": used.ru_maxrss * 1024,
        "written_bytes": written,
    }


def _profile(results: Path) -> None:
    """Say in which functions the two commands spend their time."""
    for command in (["rank", "everything"], ["report", "everything", "--output", str(results / "page.html")]):
        arguments = [*command, "--results", str(results)]
        program = ["-m", "cProfile", "-s", "tottime", "-m", "efficientllm.cli.main", *arguments]
        done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=True)
        at = done.stdout.find("function calls")
        print(command[0], "\n".join(done.stdout[max(at - 20, 0) :].splitlines()[:45]), sep="\n")


def _fill(results: Path, number: int) -> int:
    """Write the studies as plain files, without the syncing of `Study.write`; return the bytes of all measurements."""
    everything = Study(results, "everything")
    if everything.files():
        return sum(file.stat().st_size for file in everything.files())
    everything.check_writable()
    total = 0
    for size in _SIZES:
        study = Study(results, size)
        study.check_writable()
        for measurement in _study(size, number // len(_SIZES)):
            data = encode(measurement)
            file = study.measurement_file(measurement.id)
            file.write_bytes(data)
            os.link(file, everything.measurement_file(measurement.id))
            total += len(data)
    return total


def _study(size: str, number: int) -> Iterator[Measurement]:
    """Give `number` measurements of one study: condition by condition, all techniques in all repeats."""
    rng = random.Random(size)
    for vocab_tokens in count(2048, 64):
        variants = tuple(_variant(name, rng) for name in _MIXERS)
        made = example_study(
            variants=variants, repeats=_REPEATS, kind="cuda", energy=True, size=size, vocab_tokens=vocab_tokens
        )
        for measurement in made[:number]:
            windows = (replace(w, series=(*w.series, *_sampled(w, rng))) for w in measurement.windows)
            yield replace(measurement, windows=tuple(windows))
        number -= len(made)
        if number <= 0:
            return


def _variant(name: str, rng: random.Random) -> Variant:
    base = rng.choice(VARIANTS)
    better = {key: getattr(base, key) * rng.uniform(0.95, 1.05) for key in ("train_s", "decode_s", "memory", "bits")}
    return with_fields(base, name=name, **better)


def _sampled(window: Window, rng: random.Random) -> list[Series]:
    if not window.find("process_memory_bytes"):
        return []
    step_s = (window.end_s - window.begin_s) / _POINTS
    at_s = tuple(window.begin_s + step_s * place for place in range(_POINTS))
    return [
        Series(name=name, unit=unit, at_s=at_s, values=tuple(rng.random() for _ in at_s), source="nvml")
        for name, unit in _SAMPLED.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
