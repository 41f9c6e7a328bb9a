"""What was predicted of a trial before it ran."""

from __future__ import annotations

import msgspec

#: The parts of a prediction of training memory; figures of a record are named after them.
PARTS = ("weights", "gradients", "optimizer", "activations", "logits")


class MemoryPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """The most memory that a step of training takes on one device, part by part, as torch's allocator counts it.

    Attributes:
        moment: when in a step that is (`planner/train_memory.py`).
        weights_bytes, gradients_bytes, optimizer_bytes, activations_bytes, logits_bytes: the parts at this moment.
        why_not: why nothing was predicted; the parts say nothing then.
        standing_bytes: weights, gradients and the optimiser's state as they are before the optimiser's step.
        at_least: what is not counted, where the parts are less than what it will take; empty where they are all.
        remedy: what would make it fit, where it does not: settings as a recipe names them.
    """

    moment: str = ""
    weights_bytes: float = 0.0
    gradients_bytes: float = 0.0
    optimizer_bytes: float = 0.0
    activations_bytes: float = 0.0
    logits_bytes: float = 0.0
    standing_bytes: float = 0.0
    why_not: str = ""
    at_least: str = ""
    remedy: str = ""

    def parts(self) -> dict[str, float]:
        """Return name -> bytes of each part."""
        return {name: float(getattr(self, f"{name}_bytes")) for name in PARTS}

    @property
    def peak_bytes(self) -> float:
        """All parts together."""
        return sum(self.parts().values())

    def figures(self) -> dict[str, float]:
        """Return the figures of a record: `predicted_weights_bytes` …, and their sum `predicted_peak_bytes`.

        Where not all is counted, `predicted_lower_bound` says so.

        >>> MemoryPrediction(weights_bytes=4.0, logits_bytes=1.0).figures()["predicted_peak_bytes"]
        5.0
        """
        if self.why_not:
            return {}
        named = {f"predicted_{name}_bytes": size for name, size in self.parts().items()}
        bound = {"predicted_lower_bound": 1.0} if self.at_least else {}
        return {**named, **bound, "predicted_peak_bytes": self.peak_bytes}
