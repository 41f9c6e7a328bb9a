"""Memory from below: what a training step must have kept, by the shapes of its own model, was there at its peak.

A step that takes much less than its weights, the optimiser's state and what the backward pass reads has not computed
all of its gradients. Its loss may fall all the same, and its speed is that of something else.
"""

from __future__ import annotations

from efficientllm.physics.finding import Finding, impossible
from efficientllm.records.measurement import Measurement
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.records.window import Window
from efficientllm.units import bytes_text, percent_text

#: What shapes count may exceed the allocator's peak by so much: of 22 kinds of training on an H200 none did by more
#: than 4 % (`docs/h200/training/memory.txt`), logits included, which are left out here.
_MARGIN = 0.15
#: The parts that are there when the loss is known; logits may be taken in smaller chunks than was thought.
_KEPT = ("weights", "optimizer", "gradients", "activations")


def kept_for_the_backward_pass(measurement: Measurement, window: Window) -> list[Finding]:
    """The allocator's peak reaches what must be kept for the backward pass, less 15 % (`memory_below_kept`).

    Only where an allocator counts (a peak of nothing is one of a counter that does not) and a prediction stands
    beside it; weights that are streamed from the host come and go while the step runs, and are left out.
    """
    peak_bytes, settings = window.figures.get("allocated_peak_bytes"), measurement.trial.settings
    if window.name != "train" or not peak_bytes or not isinstance(settings, TrainingSettings):
        return []
    parts = {name: measurement.figures.get(f"predicted_{name}_bytes", 0.0) for name in _KEPT}
    kept_bytes = sum(parts.values())
    if not kept_bytes or settings.offload == "weights" or peak_bytes >= (1 - _MARGIN) * kept_bytes:
        return []
    told = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items() if size)
    text = (
        f"a peak of {bytes_text(peak_bytes)} is {percent_text(1 - peak_bytes / kept_bytes)} less than what a step must "
        f"hold ({bytes_text(kept_bytes)}: {told}): {bytes_text(kept_bytes - peak_bytes)} of what the backward pass "
        "reads were never there. A compiler may have dropped part of it, and then the gradients mean nothing; or a "
        "part of the model says that it keeps more than it does (`saved_bytes`)"
    )
    return impossible(window, "memory_below_kept", text)
