"""Addition of numbers with several digits, generated: the more digits, the harder."""

from __future__ import annotations

from efficientllm.data.instructions._contract import Instructions, InstructionsEntry
from efficientllm.data.instructions._tasks import Draws, Tasks, within


def open_arithmetic(digits: int = 2, terms: int = 2, samples: int = 20_000, seed: int = 0) -> Instructions:
    """Open the task.

    Args:
        digits: of each number; one digit has 100 questions, two have 8,100.
        terms: how many numbers are added.
        samples: questions in both splits.
        seed: of the draws.

    Raises:
        DataError: an option out of its bounds.
    """
    within("arithmetic", "digits", digits, 1, 15)
    within("arithmetic", "terms", terms, 2, 100)
    within("arithmetic", "samples", samples, 20, 10_000_000)
    least = 10 ** (digits - 1) if digits > 1 else 0

    def make(draws: Draws) -> tuple[str, str]:
        numbers = [least + draws.below(10**digits - least) for _ in range(terms)]
        return f"{' + '.join(map(str, numbers))} =", str(sum(numbers))

    return Tasks("arithmetic", {"digits": digits, "terms": terms}, make, samples, seed)


ENTRY = InstructionsEntry(title="Addition of numbers of `digits` digits, generated", open=open_arithmetic)
