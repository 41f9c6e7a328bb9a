"""What fine-tuning's steps train on: responses alone, each sample by itself, all targets of a step alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientllm.data._encode_samples import Encoded
from efficientllm.data._pack_rows import PackedRows, pack_rows
from efficientllm.data.samples import batch_rows
from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._packed_attention import sequence_bounds
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.training.ranks import Ranks
from efficientllm.training.samples import StepSamples

CPU = torch.device("cpu")
SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
VOCAB = 64


def make_samples(count: int, seed: int = 0, longest: int = 12) -> list[Encoded]:
    draws = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        given_tokens, told = draws.integers(1, longest), draws.integers(1, longest)
        learned = np.arange(given_tokens + told) >= given_tokens
        samples.append(Encoded(draws.integers(1, VOCAB, len(learned)), learned, int(given_tokens), "", ""))
    return samples


def settings_of(**more) -> FinetuneSettings:
    return FinetuneSettings(**{"shape": SMALL, "micro_batch": 2, "sequence_tokens": 32, **more})


def decoder_of(mixer: str = "gqa"):
    return build_decoder(settings_of(mixer=Choice(name=mixer)), vocab_tokens=VOCAB, seed=0, device="cpu").double()


def loss_and_gradients(decoder, batches):
    """Return the loss of a step, as the training loop weighs it, and the gradients of all weights."""
    decoder.zero_grad()
    total = 0.0
    for batch in batches:
        loss, _ = decoder.losses(batch.tokens, batch.targets, batch.sequence_ids)
        (loss * batch.share).backward()
        total += float(loss.detach()) * batch.share
    return total, [weight.grad.clone() for weight in decoder.parameters()]


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mixer", ["gqa", "gated_deltanet"])
def test_the_loss_of_packed_rows_is_that_of_their_samples_alone(mixer):
    samples = make_samples(9)
    rows, decoder = PackedRows(pack_rows(samples, 32)), decoder_of(mixer)
    assert 1 < rows.num_rows < 9
    batches = StepSamples(rows, settings_of(micro_batch=rows.num_rows), CPU, seed=0).of(0)
    packed = loss_and_gradients(decoder, batches)
    decoder.zero_grad()
    total, num_targets = 0.0, sum(int(sample.learned.sum()) for sample in samples)
    for sample in samples:
        tokens = torch.from_numpy(sample.tokens)[None]
        loss, _ = decoder.losses(tokens, torch.from_numpy(sample.targets())[None])
        share = int(sample.learned.sum()) / num_targets
        (loss * share).backward()
        total += float(loss.detach()) * share
    assert_same(packed, (total, [weight.grad for weight in decoder.parameters()]))


def test_prompts_and_padding_have_exactly_no_weight():
    rows, decoder = PackedRows(pack_rows(make_samples(7, seed=1), 32)), decoder_of()
    settings_ = settings_of(micro_batch=rows.num_rows)
    (batch,) = StepSamples(rows, settings_, CPU, seed=0).of(0)
    before = loss_and_gradients(decoder, [batch])
    is_target = batch.targets != -100
    padding = batch.tokens == 0  # which no sample has
    assert padding.any() and not (is_target & padding).any()
    changed = batch.tokens.clone()
    changed[padding] = 7
    other = type(batch)(changed, batch.targets, batch.sequence_ids, batch.share)
    after = loss_and_gradients(decoder, [other])
    assert after[0] == before[0], "padding tokens are never seen"
    assert all(torch.equal(one, two) for one, two in zip(before[1], after[1], strict=True))
    # One token's hidden vector at a time: only those that tell a target get a gradient.
    hidden_BTD = decoder.hidden(batch.tokens, sequence_ids_BT=batch.sequence_ids).detach().requires_grad_()
    logits = hidden_BTD @ decoder.head_weight.detach().T
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
    assert torch.equal(hidden_BTD.grad.abs().sum(-1) > 0, is_target)


def test_prompt_tokens_of_a_sample_are_given_and_not_learned():
    """The last token of a prompt tells the first of the response; no token of the prompt is told."""
    (sample,) = make_samples(1, seed=3)
    _, targets_BT = batch_rows([sample], 32)
    told = [(place, target) for place, target in enumerate(targets_BT[0].tolist()) if target != -100]
    first = sample.prompt_tokens
    assert told == [(place - 1, int(sample.tokens[place])) for place in range(first, len(sample.tokens))]


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 30),
    micro_batch=st.integers(1, 3),
    passes=st.integers(1, 3),
    world=st.integers(1, 3),
    step=st.integers(0, 4),
)
def test_shares_make_each_target_of_a_step_count_alike_over_passes_and_ranks(count, micro_batch, passes, world, step):
    rows = PackedRows(pack_rows(make_samples(count, seed=count), 32))
    of = settings_of(micro_batch=micro_batch, accumulation=passes, ranks=world)
    batches = [StepSamples(rows, of, CPU, 5, Ranks(rank, world)).of(step) for rank in range(world)]
    targets = [[int((batch.targets != -100).sum()) for batch in mine] for mine in batches]
    total = sum(map(sum, targets))
    for mine, here in zip(batches, targets, strict=True):
        assert len(mine) == passes and all(len(batch.tokens) == micro_batch for batch in mine)
        assert [batch.share for batch in mine] == pytest.approx([n * world / total for n in here])
    assert sum(batch.share for mine in batches for batch in mine) / world == pytest.approx(1)
    alone = StepSamples(rows, settings_of(micro_batch=micro_batch * passes * world), CPU, 5).of(step)
    together = torch.cat([batch.tokens for mine in batches for batch in mine])
    assert torch.equal(together, alone[0].tokens), "ranks and passes share out the rows of one"


def test_the_gradient_of_two_ranks_and_two_passes_is_that_of_one():
    rows, decoder = PackedRows(pack_rows(make_samples(20, seed=2), 32)), decoder_of()
    (whole,) = StepSamples(rows, settings_of(micro_batch=8), CPU, 0).of(0)
    one = loss_and_gradients(decoder, [whole])
    of = settings_of(micro_batch=2, accumulation=2, ranks=2)
    parts = [loss_and_gradients(decoder, StepSamples(rows, of, CPU, 0, Ranks(rank, 2)).of(0)) for rank in range(2)]
    mean = [sum(grads) / 2 for grads in zip(*(part[1] for part in parts), strict=True)]
    assert_same((sum(part[0] for part in parts) / 2, mean), one)


def test_every_row_comes_once_an_epoch_in_another_order_each_time_and_any_step_can_be_asked_for():
    rows = PackedRows(pack_rows(make_samples(40), 32))
    rows.tokens[:, 0] = np.arange(rows.num_rows)  # tells rows apart
    of = settings_of(micro_batch=1, accumulation=rows.num_rows)
    batches = StepSamples(rows, of, CPU, seed=0)
    epochs = [[int(batch.tokens[0, 0]) for batch in batches.of(step)] for step in (0, 1)]
    assert all(sorted(epoch) == list(range(rows.num_rows)) for epoch in epochs) and epochs[0] != epochs[1]
    batches.fetch(1)
    batches.fetch(0)
    assert [int(batch.tokens[0, 0]) for batch in batches.of(1)] == epochs[1]
    other = StepSamples(rows, of, CPU, seed=1).of(0)
    assert [int(batch.tokens[0, 0]) for batch in other] != epochs[0]


def test_rows_of_one_sample_each_take_the_fast_path_of_attention_with_the_same_loss():
    decoder = decoder_of()
    rows = PackedRows(np.concatenate([pack_rows([sample], 24) for sample in make_samples(4)], axis=1))
    assert rows.apart and not PackedRows(pack_rows(make_samples(9), 32)).apart
    (batch,) = StepSamples(rows, settings_of(micro_batch=4), CPU, 0).of(0)
    assert batch.sequence_ids is None
    order = [int(np.flatnonzero((rows.tokens == row.numpy()).all(axis=1))[0]) for row in batch.tokens]
    ids = torch.from_numpy(rows.sequence_ids[order])
    apart = type(batch)(batch.tokens, batch.targets, ids, batch.share)
    assert_same(loss_and_gradients(decoder, [batch]), loss_and_gradients(decoder, [apart]))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_bounds_of_packed_sequences_are_those_of_their_lengths(rows, empty):
    width = max(map(sum, rows))
    rows = [[*row, width - sum(row)] if sum(row) < width else row for row in rows]
    ids = torch.tensor([[number for number, length in enumerate(row) for _ in range(length)] for row in rows])
    lengths = [length for row in rows for length in row]
    found = sequence_bounds(ids, len(rows), len(lengths) + empty).tolist()
    assert found == [*np.cumsum([0, *lengths]).tolist(), *[width * len(rows)] * empty]


def test_a_batch_says_no_fewer_sequences_than_it_has_and_the_same_number_each_step():
    rows = PackedRows(pack_rows(make_samples(40), 32))
    steps = StepSamples(rows, settings_of(micro_batch=2), torch.device("cpu"), seed=0)
    seen = set()
    for step in range(5):
        for batch in steps.of(step):
            assert batch.most_sequences >= sum(len(row.unique_consecutive()) for row in batch.sequence_ids)
            seen.add(batch.most_sequences)
    assert len(seen) == 1
