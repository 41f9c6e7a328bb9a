"""Lets transformers load what is no family of its own (mla …): importing this module registers our class there.

    import efficientllm.models.huggingface
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)

Folders of the Llama kind need none of this. This is the one module that imports transformers at its top, for that is
what it is for; everything else here does without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from efficientllm.errors import UserError
from efficientllm.models import checkpoint
from efficientllm.models.cross_entropy import IGNORE
from efficientllm.models.decoder import Decoder


class EfficientLLMConfig(PreTrainedConfig):  # type: ignore[misc]
    """The `config.json` of such a folder; what rebuilds the model stands in its sidecar."""

    model_type = checkpoint.MODEL_TYPE


class EfficientLLMForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A decoder in the clothes that transformers expects. It generates without a cache: correct, not fast.

    Use an engine of this package to measure; use this to evaluate or to fine-tune with other people's tools.
    """

    config_class = EfficientLLMConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _supports_cache_class = False

    def __init__(self, config: EfficientLLMConfig, decoder: Decoder | None = None) -> None:
        super().__init__(config)
        if decoder is None:
            raise UserError("EfficientLLMForCausalLM is made by from_pretrained(FOLDER) only.")
        self.decoder = decoder
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> EfficientLLMForCausalLM:
        """Load a local folder; of the keywords `config`, `dtype` and `device_map` (one device) have an effect.

        Raises:
            UserError: the folder is not there.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder. Models with this package's own parts load from a local folder.")
        config = kwargs.get("config") or EfficientLLMConfig.from_pretrained(folder)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if dtype is None or dtype == "auto":
            dtype = config.dtype or torch.float32
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        device = kwargs.get("device_map") or "cpu"
        if not isinstance(device, str | torch.device) or device == "auto":
            raise UserError(f"device_map {device!r} is not supported. Name one device, such as 'cuda:0'.")
        model = cls(config, checkpoint.load(folder, device, dtype))
        model.eval()
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Refuse: the sidecar with the model's settings is written by `models.checkpoint.save`."""
        raise UserError("save_pretrained is not supported. Use efficientllm.models.checkpoint.save.")

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the weights: they are loaded before transformers would draw its own."""

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the token embedding."""
        return self.decoder.embed

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the whole sequence each time: there is no cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Return logits BTV and, with labels (the tokens themselves, -100 where they do not count), the mean loss.

        Padding that `attention_mask` marks is kept apart as a sequence of its own, so it may stand on either side.
        """
        sequence_ids = None
        if attention_mask is not None and not bool(attention_mask.all()):
            sequence_ids = attention_mask.to(torch.int64)
        logits = self.decoder(input_ids, sequence_ids_BT=sequence_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE)
        return CausalLMOutput(loss=loss, logits=logits)


AutoConfig.register(checkpoint.MODEL_TYPE, EfficientLLMConfig)
AutoModelForCausalLM.register(EfficientLLMConfig, EfficientLLMForCausalLM)
