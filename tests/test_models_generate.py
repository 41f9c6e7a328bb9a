"""Greedy decoding side by side gives each row what it gets alone."""

import pytest
import torch

from efficientllm.models.build import build_decoder
from efficientllm.models.generate import generate
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings

SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8], [30, 31]]


def decoder_of(mixer):
    settings = PretrainSettings(shape=SMALL, mixer=Choice(name=mixer))
    return build_decoder(settings, vocab_tokens=64, seed=3, device="cpu")


def alone(decoder, prompt, max_new, end):
    """Decode one prompt with no cache: the whole sequence again for each token."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_new:
        following = int(decoder(torch.tensor([tokens]))[0, -1].argmax())
        if following == end:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("mixer", ["gqa", "mla", "mamba2"])
@torch.inference_mode()
def test_each_row_gets_what_it_gets_alone(mixer):
    decoder = decoder_of(mixer)
    given = generate(decoder, PROMPTS, 6, ends=())
    assert given == [alone(decoder, prompt, 6, -1) for prompt in PROMPTS]
    assert [len(ids) for ids in given] == [6] * 4


@torch.inference_mode()
def test_a_row_ends_at_its_end_and_the_others_go_on():
    decoder = decoder_of("gqa")
    free = generate(decoder, PROMPTS, 6, ends=())
    end = free[2][3]
    given = generate(decoder, PROMPTS, 6, ends={end})
    assert given == [alone(decoder, prompt, 6, end) for prompt in PROMPTS]
    assert len(given[2]) == free[2].index(end) < 6
