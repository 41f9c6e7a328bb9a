"""The value of one of `num_pairs` keys, generated: the held-out questions of the instruction data of this name."""

from __future__ import annotations

from efficientllm.data.instructions.recall import open_recall
from efficientllm.data.questions._contract import QuestionsEntry
from efficientllm.data.questions._generated import generated

ENTRY = QuestionsEntry(title="The value of one of `num_pairs` keys, generated", open=generated(open_recall))
