"""Does the interval that a table prints for a few processes hold what many processes show?

    efficientllm run benchmarks/ten_processes.yaml --results DIR
    python benchmarks/repeats_proof.py DIR

Prints the ten processes' median decode steps, the interval of all ten, and how many of the intervals that three of them
would have given hold the geometric mean of the ten.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from pathlib import Path

from efficientllm.stats.interval import process_interval
from efficientllm.store.folder import Study


def main(results: Path) -> None:
    """Read the study and print."""
    records = sorted(Study(results, "ten-processes").read_all()[0], key=lambda record: record.trial.repeat)
    windows = [record.find("decode") for record in records if record.outcome == "ok"]
    values = [statistics.median(w.find("step_s").values) for w in windows]  # type: ignore[union-attr]
    whole = process_interval(values)
    triples = [process_interval(list(three)) for three in itertools.combinations(values, 3)]
    held = sum(t.low is not None and t.high is not None and t.low <= whole.estimate <= t.high for t in triples)  # type: ignore[operator]
    print("median step of each process, ms:", " ".join(f"{1e3 * value:.4f}" for value in values))
    print(f"all {len(values)}: {1e3 * whole.estimate:.4f} ms, 95 % interval {1e3 * (whole.low or 0):.4f} to "
          f"{1e3 * (whole.high or 0):.4f}; largest over smallest {max(values) / min(values):.4f}")  # fmt: skip
    print(f"of {len(triples)} choices of three, {held} intervals hold it ({held / len(triples):.1%})")
    energies = [w.figures["energy_j"] / len(w.find("step_s").values) for w in windows if "energy_j" in w.figures]  # type: ignore[union-attr]
    print(json.dumps({"step_s": values, "joules_a_step": energies, "triples": len(triples), "held": held}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
