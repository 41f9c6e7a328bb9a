"""Addition of numbers of `digits` digits, generated: the held-out questions of the instruction data of this name."""

from __future__ import annotations

from efficientllm.data.instructions.arithmetic import open_arithmetic
from efficientllm.data.questions._contract import QuestionsEntry
from efficientllm.data.questions._generated import generated

ENTRY = QuestionsEntry(title="Addition of numbers of `digits` digits, generated", open=generated(open_arithmetic))
