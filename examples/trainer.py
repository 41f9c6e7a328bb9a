"""A `transformers.Trainer`, measured by a callback.

python examples/trainer.py [STEPS]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import efficientllm

ROWS, TOKENS = 4, 64


def main(steps: int) -> None:
    """Train a tiny Llama on random tokens."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    tokens = torch.randint(config.vocab_size, (ROWS * steps, TOKENS))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    callback = efficientllm.MeasureCallback(
        "tiny llama",
        tokens=ROWS * TOKENS,
        samples=ROWS,
        flops=6 * model.num_parameters(exclude_embeddings=True) * ROWS * TOKENS,
        study="examples-trainer",
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    print(callback.measured)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
