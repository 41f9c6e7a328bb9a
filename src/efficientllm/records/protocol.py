"""How carefully a trial is measured."""

from __future__ import annotations

import msgspec

#: Rises with every change that moves a measured value; CHANGELOG's section "Changes the numbers" says how.
PROTOCOL_VERSION = 5


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measuring protocol's settings.

    Attributes:
        name: `standard`, or `smoke` (seconds a trial, for coverage; never ranked).
        min_window_s, max_window_s: bounds of an adaptive window.
        target_half_width: a window ends when the relative half-width of the interval of its median step is below.
        warmup_steps: the fewest steps before a window; warm-up goes on until step time is steady.
        warmup_max_s: … or until so much time has gone.
        cool_down_max_s: longest wait for power and clocks to settle, where the device reports them.
        idle_s: how long idle power is watched, where the device reports power.
        sample_interval_s: pause between two looks of the sampler.
        shared_process: whether trials may run one after another in one process, which saves each some 15 s of
            imports on a card; what one leaves behind (memory, compiled code) is then there for the next.
    """

    name: str = "standard"
    min_window_s: float = 5.0
    max_window_s: float = 30.0
    target_half_width: float = 0.02
    warmup_steps: int = 3
    warmup_max_s: float = 60.0
    cool_down_max_s: float = 15.0
    idle_s: float = 2.0
    sample_interval_s: float = 0.05
    shared_process: bool = False


#: The protocols that a recipe can name.
PROTOCOLS = {
    "standard": Protocol(),
    "smoke": Protocol(
        name="smoke",
        min_window_s=0.2,
        max_window_s=1.0,
        target_half_width=0.1,
        warmup_max_s=10.0,
        cool_down_max_s=0.0,
        idle_s=0.0,
        sample_interval_s=0.02,
        shared_process=True,
    ),
}

#: The protocol of `efficientllm.measure`: somebody's own process, as it is; it compares only with its kind.
INLINE = Protocol(name="inline", cool_down_max_s=0.0, idle_s=0.0)
