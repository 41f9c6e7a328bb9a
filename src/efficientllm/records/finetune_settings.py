"""What the workload `finetune` can be told: whose weights, which method, which instruction data."""

from __future__ import annotations

from typing import ClassVar, Literal

from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import Length, ModelSettings, Rows, Steps, refuse_told_by
from efficientllm.records.training_settings import TrainingSettings


class FinetuneSettings(TrainingSettings, frozen=True, kw_only=True, tag_field="workload", tag="finetune"):
    """Training of a model that is there, on instructions and their responses, to a fixed token budget.

    Attributes:
        model: folder or hub id of a Llama-, Mistral-, Qwen2- or Qwen3-family model; empty: what the stage of `from`
            left, or random weights of `size`, whose speed can be told and whose quality cannot.
        method: what is trained: all weights, some of them, or an adapter; or the path of an `adapter_config.json`.
        base_precision: number format of the frozen weights of the layers that are adapted; null: `weights_dtype`.
        instructions: the data.
        chat_template: `model`: that of the model's folder, plain for models trained here; `plain`: none.
        sequence_tokens: length of a row, into which whole samples are packed, and so the cutoff of a sample.
        heldout_samples: held-out samples whose responses judge quality.
        answers: how many of them are also answered by the model, greedily; 0 for none.
        answer_tokens: longest such answer.
        forgetting: whether the corpus' held-out text is scored before and after.
    """

    own_with_from: ClassVar[tuple[str, ...]] = (*ModelSettings.own_with_from, "sequence_tokens")

    model: str = ""
    method: Choice = Choice(name="lora")
    base_precision: Choice | None = None
    instructions: Choice = Choice(name="docstrings")
    chat_template: Literal["model", "plain"] = "model"
    heldout_samples: Rows = 256
    answers: Steps = 0
    answer_tokens: Length = 128
    forgetting: bool = True

    def __post_init__(self) -> None:
        """Fill the open slots, and see whether the settings go together.

        Raises:
            UserError: settings that do not.
        """
        super().__post_init__()
        if self.model:
            refuse_told_by(self.model, self)
