"""Chooses the device: the one asked for, or the accelerator found, or else the processor. Costs no torch."""

from __future__ import annotations

from efficientllm import catalog, registry
from efficientllm.devices._contract import Device, DeviceEntry
from efficientllm.errors import UserError


def open_device(kind: str = "auto", address: str = "") -> Device:
    """Open a device.

    Args:
        kind: `auto`, a device's name (`cpu`, `cuda`), a name with a number (`cuda:1`, as torch counts), or the path
            of a user's own device file.
        address: which one of its kind: what `Device.address` said, or empty for the first.

    Raises:
        UserError: there is no such device here; the message says why.
    """
    if kind == "auto":
        kind = first_accelerator() or "cpu"
    if not kind.endswith(".py"):
        kind, _, number = kind.partition(":")
        address = address or number
    entry: DeviceEntry = registry.load("device", kind)
    reason = entry.why_not()
    if reason:
        raise UserError(f"device {kind} cannot be opened: {reason}. Use device: cpu or device: auto.")
    return entry.open(address)


def first_accelerator() -> str:
    """Return the first accelerator that can be opened here, or an empty string."""
    for name in catalog.names("device"):
        entry: DeviceEntry = registry.load("device", name)
        if entry.accelerator and not entry.why_not():
            return name
    return ""
