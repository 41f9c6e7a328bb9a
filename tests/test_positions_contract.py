"""Every position encoding of the folder is held to the contract; and the contract's checks can fail."""

import math

import pytest
import torch
from torch import nn

from efficientllm import catalog, registry
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import costs
from efficientllm.models.assemble import assemble
from efficientllm.models.build import build_decoder
from efficientllm.models.initial import logit_deviation
from efficientllm.models.mixers._probe import SHAPE
from efficientllm.models.position._checks import CHECKS, check, decoders, make_decoder, tokens
from efficientllm.models.position._contract import Position, PositionEntry, positions_of
from efficientllm.models.position.absolute import SinusoidalPosition
from efficientllm.models.position.alibi import LinearBiasPosition, slopes
from efficientllm.models.position.learned import LearnedPosition
from efficientllm.models.position.relative import BucketedPosition, bucket_of
from efficientllm.models.position.rope import RotaryPosition
from efficientllm.models.shape import resolve_shape
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

POSITIONS = catalog.names("position")


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", POSITIONS)
def test_the_encoding_passes(name, what):
    CHECKS[what](registry.load("position", name))


@pytest.mark.parametrize("name", POSITIONS)
def test_an_encodings_card_has_title_source_and_claim(name):
    card = registry.load("position", name).card
    words = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}
    assert card.title and card.source.startswith("arXiv:") and card.improves and card.costs
    assert set(card.improves) | set(card.costs) <= words


class SaysNothingOfItsBias(LinearBiasPosition):
    biases_scores = False


class CountsFromZero(SinusoidalPosition):
    def embed(self, x_BTD, index_BT):
        return super().embed(x_BTD, torch.arange(x_BTD.shape[1])[None])


class Plain(Position):
    def __init__(self, shape, rotary_dim):
        super().__init__()


class LooksAhead(Plain):
    def embed(self, x_BTD, index_BT):
        return x_BTD + 0.1 * x_BTD.mean(1, keepdim=True)


class KnowsThePlace(LinearBiasPosition):
    def score_bias(self, index_BT, key_index_BS):
        return super().score_bias(index_BT, key_index_BS) * (1 + 0.1 * key_index_BS[:, None, None])


class SaysAbsolute(Plain):
    absolute = True


class CastsItsAngles(RotaryPosition):
    def restore(self):
        pass


class LosesItsSlopes(LinearBiasPosition):
    def restore(self):
        pass


class DetachesItsTable(BucketedPosition):
    def score_bias(self, index_BT, key_index_BS):
        return super().score_bias(index_BT, key_index_BS).detach()


class AsksTheDevice(BucketedPosition):
    def score_bias(self, index_BT, key_index_BS):
        assert int(index_BT.max()) >= 0
        return super().score_bias(index_BT, key_index_BS)


class DrawsNothing(LearnedPosition):
    def __init__(self, shape, rotary_dim):
        super().__init__(shape, rotary_dim)
        self.scale = nn.Parameter(torch.ones(shape.width))

    def embed(self, x_BTD, index_BT):
        return x_BTD + self.scale * (super().embed(x_BTD, index_BT) - x_BTD)


class ReadsMoreThanItHolds(LearnedPosition):
    def read_parameters(self, num_positions):
        return num_positions * self.table.embedding_dim


class WrapsAround(LearnedPosition):
    def embed(self, x_BTD, index_BT):
        return x_BTD + self.table(index_BT % self.max_positions)


FAULTS = [
    (SaysNothingOfItsBias, "hooks keep shapes"),
    (CountsFromZero, "token by token equals all at once"),
    (CountsFromZero, "packing isolates sequences"),
    (AsksTheDevice, "a step can be captured"),
    (LooksAhead, "causal"),
    (KnowsThePlace, "distance or place as it says"),
    (SaysAbsolute, "distance or place as it says"),
    (CastsItsAngles, "number formats"),
    (LosesItsSlopes, "survives a move"),
    (DetachesItsTable, "gradients are the reference's"),
    (DrawsNothing, "drawn from the seed"),
    (ReadsMoreThanItHolds, "costs as it says"),
    (WrapsAround, "length as it says"),
]


@pytest.mark.parametrize(("broken", "what"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what):
    entry = PositionEntry(card=Card(title="", source=""), build=broken)
    with pytest.raises(AssertionError):
        CHECKS[what](entry)


def test_check_reports_every_check_and_an_encoding_that_cannot_be_built():
    assert check(registry.load("position", "alibi")) == [(what, None) for what in CHECKS]

    def build(shape, rotary_dim):
        raise UserError("no such thing. Try another.")

    assert {error for _, error in check(PositionEntry(card=Card(title="", source=""), build=build))} == {
        "no such thing. Try another."
    }


def test_ordinary_attention_takes_part_in_every_check():
    for name in POSITIONS:
        assert {"mha", "gqa", "mqa"} <= {mixer for mixer, _ in decoders(registry.load("position", name))}


def test_relative_buckets_are_those_of_t5():
    from transformers.models.t5.modeling_t5 import T5Attention

    for num_buckets, max_distance in ((32, 128), (16, 64), (48, 1000)):
        distances = torch.arange(max_distance + 50)
        theirs = T5Attention._relative_position_bucket(-distances, False, num_buckets, max_distance).tolist()
        assert [bucket_of(distance, num_buckets, max_distance) for distance in distances.tolist()] == theirs


def test_a_relative_bias_is_the_tables_entry_for_head_and_bucket():
    encoding = BucketedPosition(SHAPE, 0, num_buckets=8, max_distance=16)
    with torch.no_grad():
        encoding.table.weight.copy_(torch.arange(8 * 4).view(8, 4))
    bias = encoding.score_bias(torch.tensor([[40, 41]]), torch.tensor([[0, 38, 41]]))
    assert bias[0, 1].tolist() == [[7 * 4 + 1, 2 * 4 + 1, 1], [7 * 4 + 1, 3 * 4 + 1, 1]]


def test_the_table_of_relative_positions_serves_all_layers_and_is_looked_up_once(monkeypatch):
    decoder = make_decoder(registry.load("position", "relative"), registry.load("mixer", "gqa"))
    assert sum("position" in name for name, _ in decoder.named_parameters()) == 1
    asked = []
    plain = decoder.position.score_bias
    monkeypatch.setattr(decoder.position, "score_bias", lambda *index: (asked.append(1), plain(*index))[1])
    decoder(tokens(9))
    assert asked == [1]


@pytest.mark.parametrize(("num_heads", "expected"), [(8, [2.0**-i for i in range(1, 9)]), (1, [2.0**-8])])
def test_alibi_slopes_of_a_power_of_two_fall_by_one_factor(num_heads, expected):
    assert slopes(num_heads) == expected


def test_alibi_slopes_of_other_counts_are_filled_from_twice_the_power():
    root = 2**-0.5
    assert slopes(14) == pytest.approx([2.0**-i for i in range(1, 9)] + [root * 2.0**-i for i in range(6)])
    assert len(set(slopes(14))) == 14


def test_alibi_falls_with_the_distance_at_each_heads_slope():
    bias = LinearBiasPosition(SHAPE, 0).score_bias(torch.tensor([[7, 9]]), torch.tensor([[2, 7]]))
    assert bias[0, 1].tolist() == [[-5 / 16, 0.0], [-7 / 16, -2 / 16]]


def test_sinusoids_are_the_papers_in_the_proportion_of_the_paper():
    added = SinusoidalPosition(SHAPE, 0).embed(torch.zeros(1, 3, SHAPE.width), torch.tensor([[0, 5, 900]]))
    for row, position in enumerate((0, 5, 900)):
        for i in (0, 7, 23):
            angle = position / 10_000 ** (2 * i / SHAPE.width)
            waves = [math.sin(angle), math.cos(angle)]
            expected = [logit_deviation(SHAPE.width) * wave for wave in waves]
            assert added[0, row, 2 * i : 2 * i + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_learned_positions_are_rows_of_a_table_as_long_as_the_shape_or_the_option_says():
    settings = ModelSettings(shape={"max_positions": 300}, position=Choice(name="learned"))
    decoder = build_decoder(settings, vocab_tokens=64, seed=0, device="cpu")
    assert decoder.position.table.weight.shape == (300, 256)
    x = torch.zeros(1, 2, 256)
    assert torch.equal(decoder.position.embed(x, torch.tensor([[7, 299]]))[0], decoder.position.table.weight[[7, 299]])
    narrow = Choice(name="learned", options={"max_positions": 256})
    decoder = build_decoder(ModelSettings(position=narrow), vocab_tokens=64, seed=0, device="cpu")
    assert decoder.position.table.weight.shape == (256, 256)


def test_a_text_longer_than_its_learned_positions_is_refused_by_the_decoder_not_by_an_index():
    decoder = make_decoder(
        PositionEntry(card=Card(title="", source=""), build=lambda shape, width: LearnedPosition(shape, width, 20)),
        registry.load("mixer", "gqa"),
    )
    decoder(tokens(20))
    with pytest.raises(Unsupported, match="21 tokens exceed the 20 positions"):
        decoder(tokens(21))
    state = decoder.allocate(2, 64)
    with torch.no_grad():
        decoder(tokens(20), state=state)
        with pytest.raises(Unsupported, match="21 tokens exceed"):
            decoder.step(tokens(1)[:, 0], state)
    ids = torch.arange(2).repeat_interleave(20)[None].expand(2, -1)
    assert decoder(tokens(40), sequence_ids_BT=ids).isfinite().all()  # packed, each text is short enough
    with pytest.raises(Unsupported, match="30 tokens exceed"):
        decoder(tokens(10), positions_BT=torch.arange(20, 30)[None])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("learned", {"max_positions": 0}),
        ("learned", {"max_positions": True}),
        ("relative", {"num_buckets": 1}),
        ("relative", {"num_buckets": 2.5}),
        ("relative", {"max_distance": 31}),
    ],
)
def test_options_that_make_no_encoding_are_refused_with_their_value(name, options):
    settings = ModelSettings(position=Choice(name=name, options=options))
    with pytest.raises(UserError, match=f"option {next(iter(options))} of position {name} is"):
        build_decoder(settings, vocab_tokens=64, seed=0, device="cpu")


def test_rope_turns_the_share_of_a_head_that_the_shape_says():
    shape = resolve_shape(ModelSettings(shape={"rotary_share": 0.25}), 64)
    whole, quarter = RotaryPosition(resolve_shape(ModelSettings(), 64), 16), RotaryPosition(shape, 64)
    q = torch.randn(1, 2, 5, 64)
    turned = positions_of(quarter, 5).rotate(q, q)[0]
    assert torch.equal(turned[..., 16:], q[..., 16:])
    assert torch.equal(turned[..., :16], positions_of(whole, 5).rotate(q[..., :16], q[..., :16])[0])


@pytest.mark.parametrize("shape", [{"head_dim": 33}, {"rotary_share": 0.05}, {"rotary_share": 0.01}])
def test_rope_refuses_what_are_no_pairs_and_no_other_encoding_minds(shape):
    with pytest.raises(Unsupported, match=r"rope turns pairs: (33|3|0) numbers of a head"):
        build_decoder(ModelSettings(shape=shape), vocab_tokens=64, seed=0, device="cpu")
    settings = ModelSettings(shape=shape, position=Choice(name="alibi"))
    assert assemble(resolve_shape(settings, 64), settings, device="meta", dtype=torch.float32)


def test_a_table_of_positions_is_read_by_the_row():
    def works(position):
        settings = ModelSettings(position=position)
        decoder = assemble(resolve_shape(settings, 64), settings, device="cpu", dtype=torch.float32)
        return costs.decode_work(decoder, 3, 100).moved_bytes, costs.prefill_work(decoder, 3, 100).moved_bytes

    learned = [works(Choice(name="learned", options={"max_positions": rows})) for rows in (300, 4000)]
    decode, prefill = works(Choice(name="none"))
    assert learned == [(decode + 4 * 256, prefill + 100 * 4 * 256)] * 2
