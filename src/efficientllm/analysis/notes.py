"""What a reader must know beside the figures: machines, sanity lines, cards, cautions."""

from __future__ import annotations

from collections.abc import Sequence

from efficientllm.analysis.table import Sanity
from efficientllm.records.card import Card
from efficientllm.records.environment import DeviceInfo, Environment
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.measurement import Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Caution
from efficientllm.units import bytes_text, significant

#: Techniques that a caution names before it counts the rest.
_MOST_NAMED = 16
_SANITY_END = "_bits_per_byte"


def environment_lines(records: Sequence[Measurement]) -> tuple[str, ...]:
    """Return one line a machine: device, memory, power cap, software, its id."""
    machines = {record.environment.machine_id: record.environment for record in records}
    return tuple(_line(environment) for environment in machines.values())


def sanity_of(records: Sequence[Measurement]) -> tuple[Sanity, ...]:
    """Return what simple models (`bz2`, `unigram`) make of each text that judges quality, with the stages it judges.

    A stage that fine-tunes is judged by held-out responses, others by held-out text of their corpus.
    """
    stages: dict[tuple[str, tuple[tuple[str, float], ...]], dict[str, None]] = {}
    for record in records:
        if not record.figures.get("random_weights"):
            stage = record.trial.stage or record.trial.settings_workload()
            for text, simple in _simple_models(record).items():
                stages.setdefault((text, tuple(simple.items())), {})[stage] = None
    return tuple(
        Sanity(text=text, stages=tuple(of), bits_per_byte=dict(simple)) for (text, simple), of in stages.items()
    )


def _simple_models(record: Measurement) -> dict[str, dict[str, float]]:
    """Return what simple models make of each text of a record; a domain's figures have its name at their end."""
    settings, found = record.trial.settings, dict[str, dict[str, float]]()
    domains = settings.domains if isinstance(settings, InferenceSettings) else {}
    for name, value in record.figures.items():
        if name.endswith(_SANITY_END):
            model, _, domain = name.removesuffix(_SANITY_END).partition("_")
            text = f"{domain} ({domains[domain].label()})" if domain in domains else _judged_text(record)
            found.setdefault(text, {})[model if domain in domains else name.removesuffix(_SANITY_END)] = value
    return found


def _judged_text(record: Measurement) -> str:
    settings = record.trial.settings
    if isinstance(settings, FinetuneSettings):
        return f"responses of {settings.instructions.label()}"
    return settings.corpus.label() if isinstance(settings, ModelSettings) else "the text"


def cards_of(records: Sequence[Measurement]) -> dict[str, Card]:
    """Return technique -> card, for the slots that the axes set; a technique of several cards has one for each slot.

    Keys are `technique`, or `technique (slot)`.
    """
    found: dict[str, Card] = {}
    for record in records:
        trial = record.trial
        slots = [slot for slot in record.cards if slot in trial.axes or not trial.axes]
        for slot in slots:
            key = trial.technique() if len(slots) == 1 else f"{trial.technique()} ({slot})"
            found.setdefault(key, record.cards[slot])
    return found


def choice_lines(records: Sequence[Measurement]) -> tuple[str, ...]:
    """Return one line for each choice that an earlier stage made for a technique, with what was tried."""
    return tuple(dict.fromkeys(_choice(record) for record in records if record.trial.selected is not None))


def _choice(record: Measurement) -> str:
    selected = record.trial.selected
    assert selected is not None
    tried = ", ".join(f"{label}: {significant(value, 4)}" for label, value in selected.tried.items())
    failed = "".join(f"; {label} {how}" for label, how in selected.failed.items())
    edge = "; at the edge of what was tried: a better one may lie beyond" if selected.at_edge else ""
    return (
        f"{record.trial.stage} {record.trial.technique()}: {selected.over} {selected.value or 'none'} "
        f"chosen after {selected.stage} by {selected.by} ({tried}{failed}){edge}"
    )


def grouped_cautions(records: Sequence[Measurement]) -> tuple[Caution, ...]:
    """Return one caution a code: how many records have it, which techniques, and the first as an example."""
    found: dict[str, list[tuple[Measurement, Caution]]] = {}
    for record in records:
        for caution in record.cautions:
            found.setdefault(caution.code, []).append((record, caution))
    return tuple(Caution(code=code, text=_grouped(hits, len(records))) for code, hits in sorted(found.items()))


def _grouped(hits: Sequence[tuple[Measurement, Caution]], total: int) -> str:
    with_it = {record.id for record, _ in hits}
    names = list(dict.fromkeys(record.trial.technique() for record, _ in hits))
    record, first = hits[0]
    if len(hits) == 1:
        return f"{record.trial.technique()}, repeat {record.trial.repeat}: {first.text}"
    share = f"all {total} records" if len(with_it) == total else f"{len(with_it)} of {total} records"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{share} ({', '.join(names[:_MOST_NAMED])}{more}); for example {record.trial.technique()}: {first.text}"


def _line(environment: Environment) -> str:
    devices = ", ".join(_device(device) for device in environment.devices)
    libraries = environment.libraries.get("torch")
    parts = [devices, f"Python {environment.python}", f"torch {libraries}" if libraries else "", environment.platform,
             f"{environment.threads} threads" if environment.threads else "",
             f"machine {environment.machine_id}"]  # fmt: skip
    return " · ".join(part for part in parts if part)


def _device(device: DeviceInfo) -> str:
    parts = [device.name]
    if device.capacity_bytes:
        parts.append(bytes_text(device.capacity_bytes))
    if device.power_cap_w:
        parts.append(f"cap {device.power_cap_w:.0f} W")
    if device.driver and device.kind != "cpu":
        parts.append(f"driver {device.driver}")
    return ", ".join(parts)
