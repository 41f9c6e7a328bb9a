"""Small records for doctests and tests."""

from __future__ import annotations

from typing import Any

from efficientllm.records.environment import DeviceInfo, make_environment
from efficientllm.records.measurement import Measurement
from efficientllm.records.protocol import Protocol
from efficientllm.records.series import Series
from efficientllm.records.settings import PretrainSettings, Settings
from efficientllm.records.trial import Trial, make_trial
from efficientllm.records.window import Window, Work


def example_trial(
    settings: Settings | None = None,
    *,
    axes: dict[str, str] | None = None,
    repeat: int = 0,
    baseline: bool = False,
    stage: str = "pretrain",
    seed: int | None = None,
) -> Trial:
    """Build a trial of a tiny pretraining run; `axes` name its technique."""
    axes = {"mixer": "mha"} if axes is None else axes
    return make_trial(
        settings=settings or PretrainSettings(),
        protocol=Protocol(),
        device="cpu",
        seed=repeat if seed is None else seed,
        repeat=repeat,
        stage=stage,
        axes=axes,
        baseline=baseline,
    )


def example_measurement(
    *,
    trial: Trial | None = None,
    window: str = "train",
    step_s: tuple[float, ...] = (0.5, 0.5, 0.5),
    work: Work | None = None,
    figures: dict[str, float] | None = None,
    outcome: str = "ok",
    coordinates: dict[str, int] | None = None,
    absent: dict[str, str] | None = None,
    **series: Series,
) -> Measurement:
    """Build a measurement with one window: `step_s` back to back from 0, and the given series.

    >>> example_measurement(step_s=(0.5, 0.5)).windows[0].end_s
    1.0
    """
    at_s, now = [], 0.0
    for value in step_s:
        now += value
        at_s.append(now)
    steps = Series(name="step_s", unit="s", at_s=tuple(at_s), values=step_s, source="perf_counter")
    given: tuple[Series, ...] = tuple(_named(name, value) for name, value in series.items())
    the_window = Window(
        name=window,
        coordinates=coordinates or {},
        begin_s=0.0,
        end_s=now,
        figures=figures or {},
        work=work or Work(tokens=1000, samples=4, model_flops=1e9),
        series=(steps, *given),
        absent=absent or {},
    )
    trial = trial or example_trial()
    environment = make_environment(
        devices=(DeviceInfo(kind="cpu", name="example", uuid="cpu-0", capacity_bytes=1 << 34, cores=2),),
        python="3.11.7",
        platform="linux-x86_64",
        libraries={"torch": "2.13.0"},
        code_digest="0",
    )
    return Measurement(
        id=f"{trial.id}-{environment.id}-0",
        trial=trial,
        environment=environment,
        outcome=outcome,
        windows=(the_window,),
    )


def _named(name: str, series: Any) -> Series:
    return Series(name=name, unit=series.unit, at_s=series.at_s, values=series.values, source=series.source)
