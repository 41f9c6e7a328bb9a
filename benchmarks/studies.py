"""How often the statistics are wrong, on simulated studies with known truth: the figures of `docs/statistics.md`.

    python benchmarks/studies.py [STUDIES]

Prints one line a figure and, last, all of them as JSON. `tests/prove/test_stats_studies.py` holds the same to bounds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from efficientllm.stats.proofs import by_peeking, by_sequential, by_verdicts, coverage, share_saying
from efficientllm.stats.simulate import Spread, Steps, step_times, study_values, window_errors
from efficientllm.stats.stopping import WindowRule

if TYPE_CHECKING:
    from efficientllm.stats.simulate import Array

MARGIN = 0.02
STEPS = {
    "mild": Steps(),
    "long memory": Steps(noise=0.08, correlation=0.9),
    "few slow steps": Steps(mean_s=0.4, noise=0.1),
}


def main(studies: int) -> None:
    """Simulate `studies` studies for each figure."""
    told: dict[str, float] = {}
    pools = {name: _pool(told, name, steps) for name, steps in STEPS.items()}
    for name, pool in pools.items():
        for n in (3, 5, 10):
            values = study_values(pool, Spread(round=0.0), num_studies=studies, num_techniques=1, num_rounds=n, seed=n)
            _tell(told, f"coverage, {name}, n={n}", coverage(values[:, 0]))
    for shape in ("heavy", "skewed", "two modes"):
        for n in (3, 5, 10):
            spread = Spread(process=0.03, round=0.0, shape=shape)
            values = study_values(pools["mild"], spread, num_studies=studies, num_techniques=1, num_rounds=n, seed=n)
            _tell(told, f"coverage, process effects {shape}, n={n}", coverage(values[:, 0]))
            _false_words(told, f"effects {shape}", pools["mild"], Spread(process=0.03, shape=shape), studies, n)
    for name, pool in pools.items():
        for n in (3, 5, 10):
            _false_words(told, name, pool, Spread(), studies, n)
    for n in (3, 5, 10):
        _at_the_margin(told, pools["mild"], studies, n)
    _looking(told, pools["mild"], studies)
    _cost(told)
    print(json.dumps(told))


def _pool(told: dict[str, float], name: str, steps: Steps) -> Array:
    errors, counts = window_errors(steps, 12_000)
    _tell(told, f"steps in a window, {name}, median", float(np.median(counts)))
    _tell(told, f"window error, {name}, mean", float(errors.mean()))
    _tell(told, f"window error, {name}, standard deviation", float(errors.std()))
    return errors


def _false_words(told: dict[str, float], name: str, pool: Array, spread: Spread, studies: int, n: int) -> None:
    values = study_values(pool, spread, num_studies=studies, num_techniques=8, num_rounds=n, seed=n)
    for word in ("better", "worse"):
        _tell(told, f"any false {word} of 8, {name}, n={n}", share_saying(values, word, by_verdicts(MARGIN)))


def _at_the_margin(told: dict[str, float], pool: Array, studies: int, n: int) -> None:
    for techniques in (2, 8):
        values = study_values(
            pool * 0.1, Spread(process=0.001), num_studies=studies, num_techniques=techniques, num_rounds=n
        )
        share = share_saying(values, "equivalent", by_verdicts(MARGIN), ratio=1 + MARGIN)
        _tell(told, f"any false equivalent of {techniques}, at the margin, n={n}", share)


def _looking(told: dict[str, float], pool: Array, studies: int) -> None:
    values = study_values(pool, Spread(), num_studies=studies, num_techniques=4, num_rounds=20, seed=20)
    for name, judge in (("sequential rule", by_sequential(MARGIN)), ("rule for one look", by_peeking(0.0))):
        share = share_saying(values, "better", judge)
        _tell(told, f"any false better of 4, 18 looks up to n=20, {name}", share)


def _cost(told: dict[str, float]) -> None:
    """Time the stopping rule over windows of 30 s: fast steps and slow ones."""
    for mean_s in (0.001, 0.1):
        times = step_times(Steps(mean_s=mean_s), 1, int(40 / mean_s), np.random.default_rng(0))[0].tolist()
        rule, taken = WindowRule(min_s=5.0, max_s=30.0, target=0.0), 0
        begin_s = time.perf_counter()
        while rule.unfinished():
            rule.add(times[taken])
            taken += 1
        _tell(told, f"stopping rule, ms a step, steps of {mean_s} s", (time.perf_counter() - begin_s) / taken * 1000)


def _tell(told: dict[str, float], name: str, value: float) -> None:
    told[name] = value
    print(f"{name:66} {value:9.4f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
