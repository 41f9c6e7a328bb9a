"""Runs that are killed at planned instants: a mixer that kills its own process, or the one that started it.

What is planned stands in `kills.txt` beside the mixer, one line an attempt, which takes it away:

    pass N      SIGKILL of the worker in its Nth forward pass in training
    sync N      SIGKILL of the worker when it brings something to the disk for the Nth time
    runner N    SIGKILL of the runner in the worker's Nth forward pass
    ctrl-c N    SIGINT to the runner there
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from efficientllm.bench.study import open_run
from efficientllm.recipes.load import recipe_from_text
from efficientllm.records.measurement import Ceilings
from efficientllm.store.folder import Study

RECIPE = """
name: {name}
repeats: 1
device: cpu
protocol: smoke
stages:
  - name: pretrain
    workload: pretrain
    shape: {{num_layers: 1, width: 64, num_heads: 2, num_kv_heads: 1, head_dim: 32, mlp_width: 96}}
    corpus: {corpus}
    vocab_tokens: 320
    sequence_tokens: 32
    micro_batch: 2
    tokens: {tokens}
    learning_rate: 3e-3
    heldout_tokens: 256
    checkpoint_every: {every}
    mlp: {{name: moe, num_experts: 4, balance: bias, aux_loss: 0.1}}
    axes: {{mixer: [{mixer}]}}
"""

MIXER = '''
"""Grouped-query attention that kills as planned."""
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from efficientllm import registry

GQA = registry.load("mixer", "gqa")
PLAN = Path({plan!r})


def take():
    """Take the first line of the plan away and return it."""
    lines = PLAN.read_text().splitlines() if PLAN.exists() and "bench.worker" in " ".join(sys.orig_argv) else []
    PLAN.write_text("".join(f"{{line}}\\n" for line in lines[1:]))
    return (*lines[0].split()[:1], int(lines[0].split()[1])) if lines else ("none", 0)


def build(shape):
    """Return the mixer."""
    mixer = GQA.build(shape)
    forward, sync, counts = mixer.forward, os.fsync, {{"pass": 0, "sync": 0}}
    plan = []

    def fragile(*arguments, **named):
        if torch.is_grad_enabled() and arguments[0].device.type != "meta":
            if not plan:
                plan.append(take())
                os.fsync = fragile_sync
            counts["pass"] += 1
            what, number = plan[0]
            if counts["pass"] == number and what == "pass":
                os.kill(os.getpid(), signal.SIGKILL)
            if counts["pass"] == number and what in ("runner", "ctrl-c"):
                os.kill(os.getppid(), signal.SIGKILL if what == "runner" else signal.SIGINT)
                time.sleep(30)
        return forward(*arguments, **named)

    def fragile_sync(handle):
        counts["sync"] += 1
        if plan[0] == ("sync", counts["sync"]):
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    mixer.forward = fragile
    return mixer


ENTRY = replace(GQA, build=build)
'''


def write_corpus(folder):
    """Write a dozen small texts, unless they are there."""
    folder.mkdir(exist_ok=True)
    for i in range(12):
        lines = (f"line {j} of {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
        (folder / f"{i:02}.txt").write_text("".join(lines))


class Silent:
    """A watcher that says nothing."""

    def note(self, text): ...

    def trial(self, index, total, trial): ...

    def progress(self, progress): ...

    def ended(self, measurement, *, stored_before): ...


class Fragile:
    """A results folder in which a recipe of one training run is called again and again."""

    def __init__(self, folder, *, steps=24, every=4):
        self.folder, self.results, self._steps, self._every = folder, folder / "results", steps, every
        write_corpus(folder / "corpus")
        (self.folder / "fragile.py").write_text(MIXER.format(plan=str(self.folder / "kills.txt")))

    def recipe(self, name):
        return RECIPE.format(
            name=name,
            corpus=self.folder / "corpus",
            tokens=self._steps * 64,
            every=self._every,
            mixer=self.folder / "fragile.py",
        )

    def plan(self, *kills):
        (self.folder / "kills.txt").write_text("".join(f"{kill}\n" for kill in kills))

    def call(self, name):
        """Call `run` in this process; return the record."""
        run = open_run(recipe_from_text(self.recipe(name), "fragile.yaml"), self.results, Silent())
        run._ceilings = Ceilings()  # a calibration would take longer than all the rest
        (measured,) = run.run()
        return measured

    def call_apart(self, name):
        """Call `run` in a process of its own; return its exit code."""
        words = [sys.executable, __file__, self.folder, str(self._steps), str(self._every), name]
        return subprocess.run(words, timeout=120).returncode

    def checkpoints(self, name):
        """Return the names of what is kept to go on from."""
        return sorted(path.name for path in (self.results / name / "artifacts").glob("*.checkpoints/*"))

    def stored(self, name):
        return Study(self.results, name).read_all()[0]


def curve_of(measured):
    """Return every series that the training wrote step by step."""
    curve = measured.find("curve")
    names = ("loss", "auxiliary_loss", "expert_load_max_ratio")
    return {name: curve.find(name).values for name in names}


if __name__ == "__main__":
    Fragile(Path(sys.argv[1]), steps=int(sys.argv[2]), every=int(sys.argv[3])).call(sys.argv[4])
