"""What a training step is made of: clipping inside the optimiser, tokens that come early."""

import copy

import numpy as np
import pytest
import torch

from efficientllm.data.order import TrainOrder
from efficientllm.models.cross_entropy import even_chunk
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.clipping import clipped_step
from efficientllm.training.tokens import StepTokens


def model_with_gradients(scale):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    (model(torch.randn(11, 7)).square().sum() * scale).backward()
    return model


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_clipping_inside_the_optimiser_is_clipping_before_it(fused, scale, clip_norm):
    model = model_with_gradients(scale)
    plain = copy.deepcopy(model)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        theirs.grad = mine.grad.clone()
    one, other = (torch.optim.AdamW(m.parameters(), lr=0.1, eps=1e-3, fused=fused) for m in (model, plain))
    for _ in range(2):  # the second step sees the first one's moments
        clipped_step(one, clip_norm)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm)
        other.step()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            mine.grad.mul_(0.5), theirs.grad.mul_(0.5)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-6)


class Text:
    """A token file whose tokens are their own places."""

    num_tokens = 1000

    def rows(self, starts, sequence_tokens):
        return starts[:, None] + np.arange(sequence_tokens + 1)


def test_tokens_are_those_of_their_step_whenever_they_were_fetched():
    settings = PretrainSettings(micro_batch=2, accumulation=3, sequence_tokens=8)
    order = TrainOrder(num_tokens=1000, sequence_tokens=8, seed=1)
    tokens = StepTokens(Text(), settings, torch.device("cpu"), seed=1)

    def rows(step):
        return torch.cat([torch.cat((batch.tokens, batch.targets[:, -1:]), 1) for batch in tokens.of(step)])

    straight = [rows(step) for step in range(4)]
    for step in (0, 1, 2, 3):
        assert straight[step][:, 0].tolist() == order.rows(step, 6).tolist()
    tokens.fetch(1)
    assert torch.equal(rows(1), straight[1])
    tokens.fetch(2)  # fetched for nothing: another step is asked for
    assert torch.equal(rows(3), straight[3])
    assert [batch.tokens.shape for batch in tokens.of(0)] == [(2, 8)] * 3


@pytest.mark.parametrize("num_tokens", [1, 127, 128, 883, 884, 16_384, 16_385])
@pytest.mark.parametrize("most", [1, 7, 127, 128, 883, 4417, 20_000])
def test_chunks_are_nearly_equal_and_never_too_long(num_tokens, most):
    chunk = even_chunk(num_tokens, most)
    assert 1 <= chunk <= most
    whole, rest = divmod(num_tokens, chunk)
    assert not rest or whole == 0 or most < 128 or chunk - rest <= 128 * (whole + 1)
