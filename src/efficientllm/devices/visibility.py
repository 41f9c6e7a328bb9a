"""Which driver's card is torch's `cuda:0`: CUDA_VISIBLE_DEVICES as the CUDA driver reads it, as a pure function.

NVML lists all cards by bus position and knows nothing of the variable; CUDA hides, reorders and renumbers them.
Sources: CUDA C++ Programming Guide, "CUDA Environment Variables"; NVIDIA MIG User Guide, "CUDA Visible Devices".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.errors import UserError


@dataclass(frozen=True)
class Slice:
    """A MIG slice of a card: its UUID and the numbers of its GPU and compute instance."""

    uuid: str
    gpu_instance: int = 0
    compute_instance: int = 0


@dataclass(frozen=True)
class Card:
    """A card as NVML lists it; one in MIG mode is used through its slices only."""

    uuid: str
    name: str = ""
    slices: tuple[Slice, ...] = ()
    mig: bool = False


def visible_uuids(cards: Sequence[Card], variable: str | None, order: str | None = None) -> list[str]:
    """Return the UUIDs of what a CUDA program sees, in its order: the first is `cuda:0`.

    Args:
        cards: in NVML's order.
        variable: CUDA_VISIBLE_DEVICES, None if it is not set. The first entry that names nothing hides itself and
            all after it; one named twice hides everything.
        order: CUDA_DEVICE_ORDER.

    Raises:
        UserError: numbers are used among cards of different models without CUDA_DEVICE_ORDER=PCI_BUS_ID: CUDA
            orders them by speed, which NVML does not tell.

    >>> two = [Card("GPU-aa11"), Card("GPU-bb22")]
    >>> visible_uuids(two, None), visible_uuids(two, "1,0"), visible_uuids(two, "1"), visible_uuids(two, "")
    (['GPU-aa11', 'GPU-bb22'], ['GPU-bb22', 'GPU-aa11'], ['GPU-bb22'], [])
    >>> visible_uuids(two, "GPU-bb"), visible_uuids(two, "0,7,1"), visible_uuids(two, "0,0")
    (['GPU-bb22'], ['GPU-aa11'], [])
    """
    if variable is None:
        _refuse_mixed(cards, order)
        return _as_cuda_lists([_usable(card) for card in cards])
    entries = [entry.strip() for entry in variable.split(",")]
    if entries[0].startswith("MIG-"):
        return _as_cuda_lists(_until_unknown([_find_slice(cards, entry) for entry in entries]))
    if entries[0].startswith("GPU-"):
        return _as_cuda_lists(_until_unknown([_find_card(cards, entry) for entry in entries]))
    if len(cards) > 1 and _leading_number(entries[0]) >= 0:
        _refuse_mixed(cards, order)
    numbers = [_leading_number(entry) for entry in entries]
    return _as_cuda_lists(_until_unknown([_usable(cards[n]) if 0 <= n < len(cards) else None for n in numbers]))


def _as_cuda_lists(found: Sequence[Card | Slice | None]) -> list[str]:
    """Apply CUDA's rule for slices: it lists one slice and then no other device."""
    devices = [one for one in found if one is not None]
    slices = [one for one in devices if isinstance(one, Slice)]
    return [slices[0].uuid] if slices else [one.uuid for one in devices]


def _until_unknown(found: Sequence[Card | Slice | None]) -> list[Card | Slice | None]:
    known = list(found[: found.index(None)]) if None in found else list(found)
    uuids = [one.uuid for one in known if one is not None]
    return known if len(set(uuids)) == len(uuids) else []


def _usable(card: Card) -> Card | Slice | None:
    """Return the card, or its first slice in MIG mode, or None in MIG mode without slices."""
    if not card.mig:
        return card
    return card.slices[0] if card.slices else None


def _find_card(cards: Sequence[Card], entry: str) -> Card | Slice | None:
    """Return the one card whose UUID begins so."""
    found = [card for card in cards if entry.startswith("GPU-") and card.uuid.startswith(entry)]
    return _usable(found[0]) if len(found) == 1 else None


def _find_slice(cards: Sequence[Card], entry: str) -> Slice | None:
    """Return the slice of `MIG-<uuid>`, or of the older `MIG-GPU-<uuid>/<gpu instance>/<compute instance>`."""
    if entry.startswith("MIG-GPU-") and entry.count("/") == 2:
        gpu, gpu_instance, compute_instance = entry.removeprefix("MIG-").split("/")
        found = [
            one
            for card in cards
            if card.uuid == gpu
            for one in card.slices
            if (str(one.gpu_instance), str(one.compute_instance)) == (gpu_instance, compute_instance)
        ]
    else:
        found = [one for card in cards for one in card.slices if one.uuid.startswith(entry)]
    return found[0] if len(found) == 1 and entry.startswith("MIG-") else None


def _leading_number(entry: str) -> int:
    """Return the number an entry begins with, -1 if it begins with none; CUDA reads `1abc` as 1.

    >>> _leading_number("12"), _leading_number("1abc"), _leading_number("-1"), _leading_number("no")
    (12, 1, -1, -1)
    """
    digits = ""
    for sign in entry:
        if not sign.isdecimal():
            break
        digits += sign
    return int(digits) if digits else -1


def _refuse_mixed(cards: Sequence[Card], order: str | None) -> None:
    names = sorted({card.name for card in cards})
    if len(names) > 1 and order != "PCI_BUS_ID":
        raise UserError(
            f"cards of different models ({', '.join(names)}): CUDA numbers them by speed, the driver by slot. "
            f"Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card by its UUID in CUDA_VISIBLE_DEVICES."
        )
