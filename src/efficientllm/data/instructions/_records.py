"""Instruction data in records: JSON lines, a dataset. Their layout is found at the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import msgspec

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora._files import is_heldout
from efficientllm.data.instructions._contract import Sample, prompt_of
from efficientllm.data.instructions._layouts import layout_of, pair_layout, sample_of
from efficientllm.errors import DataError

#: A record, and where it stands.
Placed = tuple[str, object]


class RecordInstructions:
    """Samples of records.

    Splits are named, or made by the hash of the prompt, about one in ten held out: equal prompts share a split. Of
    named splits, a training sample is left out whose prompt is held out too.

    Args:
        read: gives the records of a split; of all data where `named` is False.
        named: whether the data names its splits itself.
        fingerprint: gives a key that changes with the data.
        facts: for the record.
        prompt_key, response_key: where a record has question and response; empty: found.
        answer_after: what comes in a response before the part that is right or wrong (`####` in GSM8K).
    """

    def __init__(
        self,
        read: Callable[[Split], Iterator[Placed]],
        named: bool,
        fingerprint: Callable[[], str],
        facts: dict[str, str],
        prompt_key: str = "",
        response_key: str = "",
        answer_after: str = "",
    ) -> None:
        if bool(prompt_key) != bool(response_key):
            raise DataError("instructions: prompt_key and response_key go together. Set both, or neither.")
        self._read, self._named, self._fingerprint, self._facts = read, named, fingerprint, facts
        self._layout = pair_layout(prompt_key, response_key) if prompt_key else None
        self._answer_after = answer_after
        self._left_out: dict[str, int] = {}
        self._layout_name = self._layout.name if self._layout else "unknown"

    @property
    def details(self) -> dict[str, str]:
        """Where the records are from, their layout, and how many were left out and why, as far as they were read."""
        return {**self._facts, "layout": self._layout_name, **{key: str(n) for key, n in self._left_out.items()}}

    def samples(self, split: Split) -> Iterator[Sample]:
        """Yield the samples of a split in the order of the records; those without a response are left out."""
        self._left_out = {key: n for key, n in self._left_out.items() if not key.startswith(split)}
        held_out = self._heldout_prompts if self._named and split == "train" else frozenset()
        for sample in self._all(split):
            prompt = prompt_of(sample)
            # surrogatepass: a lone surrogate is refused later, where the text is written.
            if not self._named and is_heldout(prompt.encode("utf-8", "surrogatepass")) != (split == "heldout"):
                continue
            if prompt in held_out:
                self._count("train_left_out_prompt_held_out")
            else:
                yield sample

    def fingerprint(self) -> str:
        """Return a key of the data and of the options that matter."""
        layout = None if self._layout is None else self._layout.name
        return f"{self._fingerprint()} {layout} {self._answer_after}"

    @cached_property
    def _heldout_prompts(self) -> frozenset[str]:
        return frozenset(prompt_of(sample) for sample in self._all("heldout"))

    def _all(self, split: Split) -> Iterable[Sample]:
        layout = self._layout
        for where, record in self._read(split):
            layout = layout or layout_of(record, where)
            self._layout_name = layout.name
            sample = sample_of(record, layout, where)
            if sample is None:
                self._count(f"{split}_left_out_no_response")
            else:
                yield self._with_answer(sample, where)

    def _with_answer(self, sample: Sample, where: str) -> Sample:
        if not self._answer_after:
            return sample
        _, marker, answer = sample.messages[-1].content.rpartition(self._answer_after)
        if not marker or not answer.strip():
            raise DataError(
                f"{where}: the response has no answer after {self._answer_after!r}. Set another answer_after, or none."
            )
        return msgspec.structs.replace(sample, answer=answer.strip())

    def _count(self, reason: str) -> None:
        self._left_out[reason] = self._left_out.get(reason, 0) + 1
