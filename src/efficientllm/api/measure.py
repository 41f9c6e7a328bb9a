"""`efficientllm.measure`: the six metrics of a loop of anybody's own code."""

from __future__ import annotations

import io
from pathlib import Path

from efficientllm.bench.inline import InlineMeasurement, Loop
from efficientllm.records.model_settings import Dtype
from efficientllm.records.settings import UserSettings
from efficientllm.records.window import Work


class MeasuredLoop(InlineMeasurement):
    """A loop under measurement; `print(m)` after the block shows its table."""

    def __str__(self) -> str:
        """Return the table of the study that the loop belongs to, or that nothing is measured yet."""
        if self.measurement is None:
            return f"{self.loop.settings.name}: not measured yet"
        from rich.console import Console

        from efficientllm.analysis.leaderboard import study_table
        from efficientllm.report.terminal import print_table

        measurements, _ = self.study.read_all()
        console = Console(file=io.StringIO(), width=100)
        print_table(study_table(self.study.name, measurements), console)
        text = console.file
        assert isinstance(text, io.StringIO)  # given above
        return text.getvalue().rstrip()


def measure(
    name: str,
    *,
    tokens: int = 0,
    samples: int = 0,
    flops: float = 0.0,
    moved_bytes: float = 0.0,
    dtype: Dtype = "float32",
    warmup: int = 3,
    device: str = "auto",
    results: str | Path = "results",
    study: str = "inline",
    baseline: bool = False,
    external: str | Path | None = None,
) -> MeasuredLoop:
    """Measure a loop of your own: memory, compute, latency, throughput, energy, and whether it can be true.

        with efficientllm.measure("my step", tokens=8 * 2048, flops=6 * parameters * 8 * 2048, dtype="bfloat16") as m:
            for batch in batches:
                train_step(batch)
                m.step()
        print(m)

    The record goes to the same store as everything else (`efficientllm show inline`). Run the script again for another
    repeat: three give intervals. MFU and MBU need the machine's ceilings: `efficientllm calibrate`, once. With several
    processes each measures its own device: give the work of that device, and another `study` to each.

    Args:
        name: the loop's row in the table.
        tokens: tokens of one step.
        samples: samples of one step.
        flops: floating-point operations of one step that the model needs.
        moved_bytes: fewest bytes of one step that must cross the device's memory, for MBU.
        dtype: number format of the arithmetic, for MFU.
        warmup: first steps that are not measured.
        device: `auto` takes the card on which torch already works, else the first accelerator, else the processor.
        results: folder of all results.
        study: the study in it that the loop belongs to.
        baseline: whether the study's other loops are compared with this one.
        external: an external meter's file, to bound the systematic error of energy; it must be of the device itself
            (`# scope: device`), since a machine's needs the idle time that only a recipe's trials have.

    Raises:
        UserError: no such device, results that cannot be written, or no step beyond the warm-up.
    """
    work = Work(
        tokens=tokens, samples=samples, model_flops=flops, moved_bytes=moved_bytes, working_set_bytes=moved_bytes
    )
    return MeasuredLoop(
        Loop(
            settings=UserSettings(name=name, dtype=dtype),
            work=work,
            results=Path(results),
            study=study,
            device=device,
            warmup_steps=warmup,
            baseline=baseline,
            external=Path(external) if external else None,
        )
    )
