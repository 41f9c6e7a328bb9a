"""Where a study was measured: machines with devices, versions and ceilings, and what all of it was measured with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from efficientllm.records.environment import DeviceInfo, Environment
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.protocol import Protocol
from efficientllm.units import bytes_text, count_text, quantity_text, seconds_text

#: How many of something are named before the rest is counted.
_MOST_NAMED = 6
_SHA_DIGITS = 16


@dataclass(frozen=True)
class FactsView:
    """A heading with facts: words and what they stand for."""

    heading: str
    facts: tuple[tuple[str, str], ...]


def machine_views(measurements: Sequence[Measurement]) -> list[FactsView]:
    """Return what is known of each machine, in the order of the records, then what was measured with."""
    by_machine: dict[str, list[Measurement]] = {}
    for record in measurements:
        by_machine.setdefault(record.environment.machine_id, []).append(record)
    views = [FactsView(f"Machine {name}", _told(_machine(records))) for name, records in by_machine.items()]
    return [*views, FactsView("Measured with", _told(_method(measurements)))] if measurements else []


def _told(facts: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((word, said) for word, said in facts if said)


def _machine(records: Sequence[Measurement]) -> Iterable[tuple[str, str]]:
    environments = {record.environment.id: record.environment for record in records}
    first = next(iter(environments.values()))
    for index, device in enumerate(first.devices):
        yield f"device {index}" if len(first.devices) > 1 else "device", _device(device)
    yield "platform", first.platform
    yield "host", _several(environment.host for environment in environments.values())
    yield "Python", f"{first.python}, {first.threads} threads" if first.threads else first.python
    yield "libraries", _libraries(environments.values())
    yield "code", _several(_commit(environment) for environment in environments.values())
    yield "environment", _several(environments)
    ceilings = {record.ceilings.calibration: record.ceilings for record in records if record.ceilings is not None}
    yield "ceilings", "; ".join(_ceilings(one) for one in ceilings.values()) or "not calibrated"
    started = sorted(record.started_at for record in records if record.started_at)
    yield "measured", f"{started[0]} to {started[-1]}, {len(records)} records" if started else f"{len(records)} records"


def _device(device: DeviceInfo) -> str:
    parts = [device.name, bytes_text(device.capacity_bytes) if device.capacity_bytes else ""]
    parts += [f"{device.cores} {'cores' if device.kind == 'cpu' else 'multiprocessors'}" if device.cores else ""]
    parts += [f"last-level cache {bytes_text(device.last_level_cache_bytes)}" if device.last_level_cache_bytes else ""]
    parts += [f"power cap {device.power_cap_w:.0f} W" if device.power_cap_w else ""]
    parts += [f"driver {device.driver}" if device.driver else "", device.uuid]
    return ", ".join(part for part in parts if part)


def _libraries(environments: Iterable[Environment]) -> str:
    versions: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, version in sorted(environment.libraries.items()):
            versions.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(of)}" for name, of in sorted(versions.items()))


def _commit(environment: Environment) -> str:
    if not environment.git_commit:
        return ""
    return f"commit {environment.git_commit}{', with changes' if environment.git_dirty else ''}"


def _ceilings(ceilings: Ceilings) -> str:
    peaks = [f"{dtype} {quantity_text(peak, 'flop/s')}" for dtype, peak in ceilings.matmul_peak_flop_per_s.items()]
    parts = [f"matmul {', '.join(peaks)}" if peaks else ""]
    parts += [f"read {quantity_text(ceilings.read_bytes_per_s, 'bytes/s')}" if ceilings.read_bytes_per_s else ""]
    parts += [f"copy {quantity_text(ceilings.copy_bytes_per_s, 'bytes/s')}" if ceilings.copy_bytes_per_s else ""]
    parts += [f"link {quantity_text(ceilings.link_bytes_per_s, 'bytes/s')}" if ceilings.link_bytes_per_s else ""]
    parts += [f"launch {seconds_text(ceilings.launch_s)}" if ceilings.launch_s else ""]
    parts += [f"idle {quantity_text(ceilings.idle_power_w, 'w')}" if ceilings.idle_power_w is not None else ""]
    parts += [f"calibration {ceilings.calibration}" if ceilings.calibration else ""]
    return ", ".join(part for part in parts if part)


def _method(records: Sequence[Measurement]) -> Iterable[tuple[str, str]]:
    yield "efficientllm", _several(record.software_version for record in records)
    protocols = {(record.trial.protocol, record.trial.protocol_version) for record in records}
    for protocol, version in sorted(protocols, key=str):
        yield f"protocol {protocol.name}", f"version {version}: {_protocol(protocol)}"
    repeats, seeds = ({getattr(record.trial, name) for record in records} for name in ("repeat", "seed"))
    yield "repeats", f"{len(repeats)}, each in a process of its own; seeds {_several(map(str, sorted(seeds)))}"
    yield "schema", _several(str(record.schema) for record in records)
    for record in {record.data.corpus_sha256: record for record in records if record.data is not None}.values():
        data = record.data
        assert data is not None
        sizes = f"{count_text(data.train_tokens)} tokens to train on, {count_text(data.heldout_tokens)} held out"
        hashes = f"text sha256 {data.corpus_sha256[:_SHA_DIGITS]}, tokenizer {data.tokenizer_sha256[:_SHA_DIGITS]}"
        yield f"text {data.corpus}", f"{sizes}; {hashes}"


def _protocol(protocol: Protocol) -> str:
    settings = msgspec.structs.asdict(protocol)
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "name")


def _several(texts: Iterable[str]) -> str:
    """Name the different texts.

    >>> _several(["a", "b", "a", ""]), _several("abcdefgh")
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    found = [text for text in dict.fromkeys(texts) if text]
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more
