"""The card of a technique: what it is, where it comes from, what it claims to improve and to cost."""

from __future__ import annotations

import msgspec


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A technique's claim, copied into every record so that reports can put it beside the measurement.

    `improves` and `costs` use the words memory, compute, latency, throughput, energy, compression, quality.
    """

    title: str
    source: str
    improves: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    note: str = ""
