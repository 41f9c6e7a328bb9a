"""What was predicted of each trial, beside what came."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficientllm.analysis.select import select
from efficientllm.physics.finding import steps_s
from efficientllm.records.measurement import Measurement
from efficientllm.units import bytes_text, percent_text, quantity_text, significant

#: A prediction is held to a few percent: on an H200, 22 kinds of training came within 4 % (`docs/performance.md`), and
#: what exceeds a device by more than 5 % is not tried.
STATED_ERROR = 0.05
#: Rows on a page.
_MOST = 120
#: Less than this needs no figure.
_SMALL = 0.001
_NO_ALLOCATOR = "a processor's memory is not counted by an allocator"


@dataclass(frozen=True)
class Quantity:
    """One thing that is predicted.

    Attributes:
        title: what it is; `unit`: base unit.
        figure: of the record, where the prediction stands.
        came: what was measured of it in a record, or None.
        bounds: whether a prediction that is only a lower bound says so in the record.
    """

    title: str
    unit: str
    figure: str
    came: Callable[[Measurement], float | None]
    bounds: bool = False


def _peak(record: Measurement) -> float | None:
    train = record.find("train")
    return train.figures.get("allocated_peak_bytes") if train else None


def _weights(record: Measurement) -> float | None:
    return float(record.model.weight_bytes) if record.model else None


def _optimizer(record: Measurement) -> float | None:
    return record.figures.get("optimizer_bytes")


def _step(record: Measurement) -> float | None:
    train = record.find("train")
    return statistics.median(steps_s(train)) if train and steps_s(train) else None


def _energy(record: Measurement) -> float | None:
    train = record.find("train")
    return train.figures.get("energy_j") if train else None


QUANTITIES = (
    Quantity("peak memory", "bytes", "predicted_peak_bytes", _peak, bounds=True),
    Quantity("weights", "bytes", "predicted_weights_bytes", _weights),
    Quantity("optimizer's state", "bytes", "predicted_optimizer_bytes", _optimizer),
    Quantity("time of a step", "s", "predicted_step_s", _step),
    Quantity("energy of training", "j", "predicted_energy_j", _energy),
)


@dataclass(frozen=True)
class Prediction:
    """One prediction beside what came, over a technique's repeats.

    Attributes:
        stage, technique, what: whose, and of what.
        predicted, measured: in words; `ratio`: predicted over measured, empty where nothing may be compared.
        state: `within` the stated error, `outside` it, `held` (it did not fit, or a bound held), `none`.
        said: the state in words, or why nothing may be compared.
    """

    stage: str
    technique: str
    what: str
    predicted: str
    measured: str
    ratio: str
    state: str
    said: str


def predictions(measurements: Sequence[Measurement]) -> list[Prediction]:
    """Return what was predicted of each technique beside what came, stage by stage."""
    found: dict[tuple[str, str, str], list[Measurement]] = {}
    for record in select(measurements).records:
        key = (record.trial.stage or record.trial.settings_workload(), record.trial.technique(),
               record.environment.machine_id)  # fmt: skip
        found.setdefault(key, []).append(record)
    return [
        _beside(stage, technique, quantity, records)
        for (stage, technique, _), of in found.items()
        for quantity in QUANTITIES
        if (records := [record for record in of if _told(record, quantity)])
    ]


def shown(found: Sequence[Prediction]) -> list[Prediction]:
    """Return what a page has room for: all where they are few, else first those outside their error."""
    if len(found) <= _MOST:
        return list(found)
    return sorted(found, key=lambda prediction: prediction.state != "outside")[:_MOST]


def _told(record: Measurement, quantity: Quantity) -> bool:
    """Whether something was predicted and came; of the peak also where that cannot be told."""
    predicted = record.figures.get(quantity.figure, 0.0) > 0
    return predicted and (quantity.bounds or (record.outcome != "oom" and quantity.came(record) is not None))


def summary(found: Sequence[Prediction]) -> str:
    """Say how many predictions came true.

    >>> summary([Prediction("a", "b", "c", "", "", "", state, "") for state in ("within", "held", "none")])
    '2 of 2 predictions came within 5 % or held as bounds; 1 cannot be compared'
    """
    states = [prediction.state for prediction in found]
    good, judged = sum(state in ("within", "held") for state in states), sum(state != "none" for state in states)
    error = f"{100 * STATED_ERROR:.0f} %"
    rest = f"; {len(states) - judged} cannot be compared" if judged < len(states) else ""
    return f"{good} of {judged} predictions came within {error} or held as bounds{rest}"


def _beside(stage: str, technique: str, quantity: Quantity, records: Sequence[Measurement]) -> Prediction:
    predicted = statistics.fmean(record.figures[quantity.figure] for record in records)
    bound = quantity.bounds and any(record.figures.get("predicted_lower_bound") for record in records)
    text = ("≥ " if bound else "") + quantity_text(predicted, quantity.unit)
    short = [record for record in records if record.outcome == "oom"]
    if short:
        measured, state, said = _no_room(short[0], predicted)
        return Prediction(stage, technique, quantity.title, text, measured, "", state, said)
    pairs = [(record.figures[quantity.figure], came) for record in records if (came := quantity.came(record))]
    if not pairs:
        return Prediction(stage, technique, quantity.title, text, "–", "", "none", _why(quantity, records[0]))
    measured = quantity_text(statistics.fmean(came for _, came in pairs), quantity.unit)
    ratio = statistics.fmean(told / came for told, came in pairs)
    state, said = _judge(max(pairs, key=lambda pair: abs(pair[0] / pair[1] - 1)), bound=bound)
    return Prediction(stage, technique, quantity.title, text, measured, f"{significant(ratio)}×", state, said)


def _judge(furthest: tuple[float, float], *, bound: bool) -> tuple[str, str]:
    told, came = furthest
    error = told / came - 1
    if bound:
        holds = told <= came * (1 + STATED_ERROR)
        return ("held", "a lower bound, and it holds") if holds else ("outside", "more than came, though a lower bound")
    words = f"off by {percent_text(abs(error), 2)}" if abs(error) >= _SMALL else "as predicted"
    if abs(error) <= STATED_ERROR:
        return "within", words
    return "outside", f"{words}: more than the stated {percent_text(STATED_ERROR, 1)}"


def _no_room(record: Measurement, predicted: float) -> tuple[str, str, str]:
    """Return what came of a trial that did not fit, how its prediction stands, and the words for it."""
    held = sum(device.capacity_bytes for device in record.environment.devices[:1])
    room = f" of {bytes_text(held)}" if held else ""
    if any(caution.code == "predicted" for caution in record.cautions):
        return f"not tried{room}", "held", "by its shapes it does not fit"
    if held and predicted > held:
        return f"out of memory{room}", "held", "as predicted"
    return f"out of memory{room}", "outside", "by its shapes it would have fitted"


def _why(quantity: Quantity, record: Measurement) -> str:
    """Say why what was predicted cannot be compared."""
    if record.outcome != "ok":
        return f"ended {record.outcome}"
    on_cpu = {device.kind for device in record.environment.devices} == {"cpu"}
    return _NO_ALLOCATOR if on_cpu and quantity.figure == "predicted_peak_bytes" else "not measured"
