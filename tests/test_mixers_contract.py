"""Every token mixer of the folder is held to the contract; and the contract's checks can fail."""

from dataclasses import replace

import pytest
import torch

from efficientllm import catalog, registry
from efficientllm.errors import UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.linear import Linear
from efficientllm.models.mixers._checks import CHECKS, check
from efficientllm.models.mixers._contract import Mixer, MixerEntry, State, causal_pairs
from efficientllm.models.mixers._probe import SHAPE
from efficientllm.models.mixers.gated_deltanet import GatedDeltaNet
from efficientllm.models.mixers.gqa import GroupedQueryAttention
from efficientllm.models.mixers.mamba2 import Mamba2
from efficientllm.models.mixers.rwkv7 import Rwkv7
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

MIXERS = catalog.names("mixer")


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", MIXERS)
def test_the_mixer_passes(name, what):
    CHECKS[what](registry.load("mixer", name))


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixers_card_has_title_source_and_claim(name):
    card = registry.load("mixer", name).card
    words = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}
    assert card.title and card.source.startswith("arXiv:")
    assert card.improves and card.costs
    assert set(card.improves) | set(card.costs) <= words


@pytest.mark.parametrize("name", MIXERS)
def test_check_reports_every_check_of_a_good_mixer_as_passed(name):
    assert check(registry.load("mixer", name)) == [(what, None) for what in CHECKS]


class SeesTheFuture(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        out = super().forward(x_BTD, positions, state, sequence_ids_BT)
        return out + 0.01 * x_BTD.mean(1, keepdim=True)


class ClaimsASmallCache(GroupedQueryAttention):
    def cache_bytes_per_token(self, dtype_bytes):
        return super().cache_bytes_per_token(dtype_bytes) / 2


class ClaimsFewFlops(GroupedQueryAttention):
    def reference_flops(self, num_tokens):
        return 0.9 * super().reference_flops(num_tokens)


class CountsMoreThanItsReference(GroupedQueryAttention):
    def model_flops(self, new_tokens, context=0):
        return 2 * self.reference_flops(new_tokens) + context


class HasADeadParameter(GroupedQueryAttention):
    def __init__(self, shape):
        super().__init__(shape)
        self.unused = Linear(4, 4)


class ForgetsTheScale(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        self.scale *= 1.5
        try:
            return super().forward(x_BTD, positions, state, sequence_ids_BT)
        finally:
            self.scale /= 1.5


class IgnoresPacking(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        return super().forward(x_BTD, positions, state)


class IgnoresTheWindow(GroupedQueryAttention):
    def __init__(self, shape):
        super().__init__(replace(shape, sliding_window=0))


class IgnoresTheBias(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        unbiased = type(positions)(positions.index_BT, registry.load("position", "none").build(SHAPE, 0))
        unbiased.rotate = positions.rotate
        return super().forward(x_BTD, unbiased, state, sequence_ids_BT)


class RotatesFromZero(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        if state is not None:
            index = torch.arange(x_BTD.shape[1])[None]
            positions = positions.encoding.at(index, torch.float32)
        return super().forward(x_BTD, positions, state, sequence_ids_BT)


class OverwritesItsCache(GroupedQueryAttention):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        out = super().forward(x_BTD, positions, state, sequence_ids_BT)
        if state is not None and state.length:
            state.parts[0][..., 0] += 1.0
        return out


class ForgetsItsRecentTokens(Mamba2):
    """Its state comes back from a mark with the matrices, but not with the last inputs."""

    def allocate(self, batch, max_tokens, dtype, device):
        state = super().allocate(batch, max_tokens, dtype, device)
        go_back = state.rewind

        def rewind(length):
            recent = state.recent.clone()
            go_back(length)
            state.recent.copy_(recent)

        state.rewind = rewind
        return state


class ForgetsItsMark(GatedDeltaNet):
    """It goes back to any length, by the count alone, as a cache does."""

    def allocate(self, batch, max_tokens, dtype, device):
        state = super().allocate(batch, max_tokens, dtype, device)
        state.rewind = lambda length: State.rewind(state, length)
        return state


class MovesItsState(Rwkv7):
    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        out = super().forward(x_BTD, positions, state, sequence_ids_BT)
        if state is not None and x_BTD.shape[1] == 1:
            state.memory = state.memory.clone()
        return out


class MovesItsStateBack(Rwkv7):
    def allocate(self, batch, max_tokens, dtype, device):
        state = super().allocate(batch, max_tokens, dtype, device)
        go_back = state.rewind

        def rewind(length):
            state.recent = state.recent.clone()
            go_back(length)

        state.rewind = rewind
        return state


class HidesATensor(GroupedQueryAttention):
    def allocate(self, batch, max_tokens, dtype, device):
        state = super().allocate(batch, max_tokens, dtype, device)
        state.tensors = lambda: state.parts[:1]
        return state


class LeaksThroughItsConvolution(Mamba2):
    """Its matrices begin anew in each packed sequence, its convolution does not."""

    def inputs(self, parts, before, runs, *, plain):
        return super().inputs(parts, before, None, plain=plain)


class LeaksThroughItsState(GatedDeltaNet):
    def chunks(self, taken, memory, runs_BT):
        return super().chunks(taken, memory, None)


class CountsItsDecays(Rwkv7):
    def reference_flops(self, num_tokens):
        return super().reference_flops(num_tokens) + num_tokens * self.shape.width * self.head_dim


class KeepsTheMatricesInTheModelsType(Mamba2):
    def state_bytes(self, dtype_bytes):
        return super().state_bytes(dtype_bytes) * dtype_bytes // 4


class MixesNothing(Mixer):
    def __init__(self, shape):
        super().__init__()
        self.linear = Linear(shape.width, shape.width)

    def forward(self, x_BTD, positions, state=None, sequence_ids_BT=None):
        return self.linear(x_BTD)


FAULTS = [
    (SeesTheFuture, "causal"),
    (MixesNothing, "depends on the past"),
    (ClaimsASmallCache, "cache as large as it says"),
    (ClaimsFewFlops, "FLOPs as it says"),
    (CountsMoreThanItsReference, "FLOPs as it says"),
    (HasADeadParameter, "trains"),
    (ForgetsTheScale, "fast path equals the reference"),
    (ForgetsTheScale, "odd lengths"),
    (IgnoresPacking, "packing isolates sequences"),
    (IgnoresTheWindow, "sliding window"),
    (IgnoresTheBias, "score bias"),
    (RotatesFromZero, "token by token equals all at once"),
    (RotatesFromZero, "chunked prefill equals all at once"),
    (RotatesFromZero, "long cache with fixed shapes"),
    (OverwritesItsCache, "rewind"),
    (ForgetsItsRecentTokens, "rewind"),
    (ForgetsItsMark, "rewind"),
    (MovesItsState, "state at fixed addresses"),
    (MovesItsStateBack, "state at fixed addresses"),
    (HidesATensor, "state at fixed addresses"),
    (LeaksThroughItsConvolution, "packing isolates sequences"),
    (LeaksThroughItsState, "packing isolates sequences"),
    (CountsItsDecays, "FLOPs as it says"),
    (KeepsTheMatricesInTheModelsType, "cache as large as it says"),
]


@pytest.mark.parametrize(("broken", "what"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what):
    results = dict(check(MixerEntry(card=Card(title="", source=""), build=broken)))
    assert results[what], f"{broken.__name__} passes {what!r}"
    assert "\n" not in results[what]


def test_check_reports_a_mixer_that_cannot_be_built():
    def build(shape):
        raise UserError("no such thing. Try another.")

    results = check(MixerEntry(card=Card(title="", source=""), build=build))
    assert {error for _, error in results} == {"no such thing. Try another."}


def test_mha_and_mqa_are_the_grouped_one_with_other_counts():
    heads = {name: registry.load("mixer", name).build(SHAPE).shape.num_kv_heads for name in ("mha", "gqa", "mqa")}
    assert heads == {"mha": 4, "gqa": 2, "mqa": 1}


def test_the_caches_stand_in_the_published_order():
    shape = replace(SHAPE, width=1536, num_heads=12, num_kv_heads=2, head_dim=128)
    held = {name: registry.load("mixer", name).build(shape).cache_bytes_per_token(2) for name in MIXERS}
    assert held["mha"] == 2 * 12 * 128 * 2
    assert held["gqa"] == 2 * 2 * 128 * 2
    assert held["mqa"] == 2 * 1 * 128 * 2
    assert held["mla"] == (1536 // 8 + 128 // 2) * 2


def test_mla_takes_its_ranks_as_options():
    settings = ModelSettings(mixer=Choice(name="mla", options={"latent_rank": 24, "nope_dim": 16, "rope_dim": 8}))
    mixer = build_decoder(settings, vocab_tokens=64, seed=0, device="cpu").block(0).mixer
    assert (mixer.latent_rank, mixer.nope_dim, mixer.rope_dim) == (24, 16, 8)
    assert mixer.cache_bytes_per_token(4) == (24 + 8) * 4


@pytest.mark.parametrize("options", [{"latent_rank": 0}, {"rope_dim": 7}, {"nope_dim": -1}, {"latent_rank": 2.5}])
def test_mla_refuses_ranks_that_make_no_model(options):
    with pytest.raises(UserError, match=next(iter(options))):
        build_decoder(ModelSettings(mixer=Choice(name="mla", options=options)), vocab_tokens=64, seed=0, device="cpu")


@pytest.mark.parametrize("value_dim_first", [True, False])
def test_mla_with_unequal_widths_passes_all_checks(value_dim_first):
    options = {"nope_dim": 4, "rope_dim": 2} if value_dim_first else {"nope_dim": 20, "rope_dim": 6, "latent_rank": 9}
    entry = registry.load("mixer", "mla")
    built = MixerEntry(card=entry.card, build=lambda shape: entry.build(shape, **options), supports=entry.supports)
    assert check(built) == [(what, None) for what in CHECKS]


@pytest.mark.parametrize(("new", "context", "window"), [(5, 0, 0), (1, 9, 0), (7, 3, 4), (3, 9, 4), (4, 0, 9)])
def test_causal_pairs_are_those_of_the_mask(new, context, window):
    query = torch.arange(context, context + new)[:, None]
    key = torch.arange(context + new)[None]
    visible = (key <= query) & (key > query - (window or 10**6))
    assert causal_pairs(new, context, window) == visible.sum()
