"""What a person sees of a training run: loss, tokens a second, MFU, time left."""

from __future__ import annotations

from collections import deque

from efficientllm.units import percent_text, quantity_text, seconds_text

#: The rate is that of about so many seconds: it settles within a few steps and follows what changes.
_WINDOW_S = 2.0


class Pace:
    """How fast a run goes, from when its steps ended.

    Args:
        tokens_per_step: of all ranks.
        num_steps: of the whole run.
        flops_per_step: model FLOPs.
        peak_flop_per_s: what the device, or all of them, reach at most; 0 if that is not known.
    """

    def __init__(
        self, tokens_per_step: int, num_steps: int, flops_per_step: float = 0.0, peak_flop_per_s: float = 0.0
    ) -> None:
        self._tokens, self._num_steps = tokens_per_step, num_steps
        self._flops, self._peak = flops_per_step, peak_flop_per_s
        self._ends: deque[tuple[int, float]] = deque()

    def step(self, steps_done: int, now_s: float) -> None:
        """Take down that a step has ended, by a clock that never goes back."""
        self._ends.append((steps_done, now_s))
        while len(self._ends) > 2 and now_s - self._ends[1][1] >= _WINDOW_S:
            self._ends.popleft()

    def pause(self, elapsed_s: float) -> None:
        """Take out time that was no training, after the last step."""
        self._ends = deque((steps, at_s + elapsed_s) for steps, at_s in self._ends)

    @property
    def steps_per_s(self) -> float | None:
        """Steps a second of late; None before the second one."""
        if len(self._ends) < 2:
            return None
        (first, first_s), (last, last_s) = self._ends[0], self._ends[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None

    def note(self, loss: float) -> str:
        """Return the line that stands beside the bar.

        >>> pace = Pace(tokens_per_step=1000, num_steps=100, flops_per_step=2e9, peak_flop_per_s=1e11)
        >>> pace.step(1, 10.0); pace.note(9.87)
        'loss 9.87'
        >>> pace.step(2, 10.5); pace.note(9.8)
        'loss 9.80 · 2.00 k/s · MFU 4.0 % · 49.0 s left'
        """
        rate = self.steps_per_s
        if rate is None:
            return f"loss {loss:.2f}"
        parts = [f"loss {loss:.2f}", quantity_text(rate * self._tokens, "tokens/s")]
        if self._peak and self._flops:
            parts.append(f"MFU {percent_text(rate * self._flops / self._peak, 2)}")
        left = self._num_steps - self._ends[-1][0]
        if left > 0:
            parts.append(f"{seconds_text(left / rate)} left")
        return " · ".join(parts)
