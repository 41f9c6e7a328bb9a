"""Copying `length` letters, generated: the held-out questions of the instruction data of this name."""

from __future__ import annotations

from efficientllm.data.instructions.copying import open_copying
from efficientllm.data.questions._contract import QuestionsEntry
from efficientllm.data.questions._generated import generated

ENTRY = QuestionsEntry(title="Copying `length` letters, generated", open=generated(open_copying))
