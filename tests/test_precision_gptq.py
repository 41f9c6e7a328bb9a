"""GPTQ's codes are those of the paper's loop written out, and lose less of a layer's output than rounding to nearest."""

import pytest
import torch

from efficientllm import catalog
from efficientllm.data.packing import Packed, TokenFile
from efficientllm.errors import UserError
from efficientllm.models.build import build_decoder
from efficientllm.models.calibrate import calibration_rows, pack_block_by_block
from efficientllm.models.mixers._probe import position_with
from efficientllm.models.pack_decoder import dense_layers, pack_decoder
from efficientllm.precision import gptq, int4
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision.pack import load_precision, pack_frozen
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings

SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
GPTQ = Choice(name="gptq", options={"group": 32})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows, width, seed=5):
    """Inputs of which a few directions are strong, as those of a trained layer are."""
    strong = normal(rows, width // 8, seed=seed) @ normal(width // 8, width, seed=seed + 1)
    return strong + 0.3 * normal(rows, width, seed=seed + 2)


def moments_of(x_MI):
    return x_MI.t() @ x_MI / len(x_MI)


def lost(layer, weight, x_MI):
    return ((x_MI @ (layer.weight - weight).t()).norm() / (x_MI @ weight.t()).norm()).item()


def read(codes, step, zero):
    return (codes - 8) * step + zero


def written_out(weight, moments, steps, zeros, group, damping, order):
    """The paper's loop, row after row and column after column, with the inverse of what is left made anew each time."""
    damped = moments + damping * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    codes = torch.zeros(weight.shape, dtype=torch.uint8)
    for row in range(len(weight)):
        w, left = weight[row].clone(), list(order)
        while left:
            inverse = damped[left][:, left].inverse()
            i, block = left[0], (row * weight.shape[1] + left[0]) // group
            code = ((w[i] - zeros[block]) / steps[block] + 8).round().clamp(0, 15)
            codes[row, i] = int(code)
            error = (w[i] - read(code, steps[block], zeros[block])) / inverse[0, 0]
            w[left] -= error * inverse[0]
            left = left[1:]
    return codes


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("width", [48, 150])  # 150: groups begin in the middle of a row, and two lots of inputs
def test_codes_are_those_of_the_loop_written_out(width, act_order):
    weight, moments = normal(4, width).double(), moments_of(correlated(400, width).double())
    held = int4.pack(weight.float(), None, 32).packed()
    steps, zeros = held.scales.double(), held.lows.double()
    order = sorted(range(width), key=lambda i: -moments[i, i]) if act_order else range(width)
    expected = written_out(weight, moments, steps, zeros, 32, 0.01, order)
    got = gptq.compensated(weight, moments, steps, zeros, 32, 0.01, act_order)
    assert torch.equal(got, expected)
    plain = gptq.compensated(weight, torch.eye(width).double(), steps, zeros, 32, 0.01, act_order)
    assert not torch.equal(got, plain)
    single = gptq.compensated(weight.float(), moments.float(), steps.float(), zeros.float(), 32, 0.01, act_order)
    assert (single != expected).double().mean() < 0.02, "float32 turns more than a few ties over"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act_order", [False, True])
def test_correlated_inputs_lose_far_less_than_by_rounding_to_nearest(act_order, dtype):
    weight, seen, fresh = normal(96, 256).to(dtype), correlated(2048, 256), correlated(4096, 256)[2048:]
    layer = gptq.pack(weight, None, act_order=act_order, moments_II=moments_of(seen))
    plain = int4.pack(weight, None)
    assert lost(layer, weight, fresh.to(dtype)) < 0.6 * lost(plain, weight, fresh.to(dtype))
    assert (layer.weight - weight).norm() > (plain.weight - weight).norm()
    assert torch.equal(layer.scales, plain.scales) and torch.equal(layer.lows, plain.lows)


def test_of_white_inputs_nothing_can_be_made_up_for():
    weight = normal(96, 256)
    layer, plain = gptq.pack(weight, None, moments_II=torch.eye(256)), int4.pack(weight, None)
    assert torch.equal(layer.weight, plain.weight)
    white = normal(4096, 256, seed=3)
    layer = gptq.pack(weight, None, moments_II=moments_of(white))
    assert lost(layer, weight, normal(2048, 256, seed=4)) == pytest.approx(lost(plain, weight, white), rel=0.05)


def test_dead_inputs_and_moments_of_low_rank_are_rounded_all_the_same():
    weight, few = normal(64, 128), correlated(20, 128)
    few[:, 40:60] = 0.0
    layer, plain = gptq.pack(weight, None, moments_II=moments_of(few)), int4.pack(weight, None)
    assert layer.weight.isfinite().all()
    assert lost(layer, weight, few) < 0.5 * lost(plain, weight, few)
    assert torch.equal(layer.weight[:, 40:60], plain.weight[:, 40:60]), "what a dead input takes part in has changed"
    none = gptq.pack(weight, None, moments_II=torch.zeros(128, 128))
    assert torch.equal(none.weight, plain.weight)
    with pytest.raises(UserError, match="moments of 128 inputs have no inverse with damping 0"):
        gptq.pack(weight, None, damping=0, moments_II=moments_of(few))
    with pytest.raises(UserError, match="have no inverse"):
        gptq.pack(weight, None, moments_II=torch.full((128, 128), torch.nan))


def test_options_out_of_range_are_refused():
    weight, moments = normal(8, 64), torch.eye(64)
    with pytest.raises(UserError, match=r"gptq: damping -1: choose a share from 0 to 1\."):
        gptq.pack(weight, None, damping=-1, moments_II=moments)
    with pytest.raises(UserError, match=r"gptq: group 48: choose from 16, 32"):
        gptq.pack(weight, None, group=48, moments_II=moments)
    with pytest.raises(UserError, match=r"unknown option 'dampin' of precision gptq\. Did you mean 'damping'"):
        load_precision(Choice(name="gptq", options={"dampin": 1}))
    with pytest.raises(UserError, match="gptq needs calibration text"):
        pack_frozen([(torch.nn.Sequential(torch.nn.Linear(8, 8)), "0")], GPTQ)


def decoder_of(dtype=torch.float32, **more):
    settings = ModelSettings(shape=SMALL, sequence_tokens=16, **more)
    return build_decoder(settings, vocab_tokens=96, seed=0, device="cpu", dtype=dtype).eval()


def text(rows=8, length=80, seed=0):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", catalog.names("mixer"))
def test_a_decoder_of_any_mixer_is_packed_by_what_its_layers_see(name):
    more = {"mixer": Choice(name=name), "position": Choice(name=position_with(name))}
    decoder, nearest, plain = decoder_of(**more), decoder_of(**more), decoder_of(**more)
    dense = [getattr(owner, attribute) for owner, attribute in dense_layers(decoder.blocks)]
    assert pack_decoder(decoder, GPTQ, text()) == len(dense) > 0
    assert pack_decoder(nearest, Choice(name="int4", options={"group": 32})) == len(dense)
    assert not [layer for layer in decoder.blocks.modules() if type(layer) is type(dense[0])]
    assert type(decoder.embed) is type(plain.embed) and not isinstance(decoder.head, PackedLinear)
    with torch.no_grad():
        expected, tokens = plain(text(seed=1)), text(seed=1)
        assert (decoder(tokens) - expected).norm() < 0.97 * (nearest(tokens) - expected).norm()
    again = decoder_of(**more)
    pack_decoder(again, GPTQ, text())
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), decoder.buffers(), strict=True))


def test_each_block_is_packed_by_what_the_packed_ones_before_it_let_through():
    decoder, seen = decoder_of(), []
    stage = [decoder_of(), decoder_of()]  # by hand: nothing packed, and the first block packed

    def pack(block, moments):
        qkv = block.mixer.qkv
        seen.append(moments[qkv].clone())
        assert set(moments) == {qkv, block.mixer.out, block.mlp.gate_up, block.mlp.down}
        pack_frozen(list(dense_layers(block)), GPTQ, moments)
        assert not moments

    pack_block_by_block(decoder, text(), pack)
    stage[1].blocks[0] = decoder.blocks[0]
    for number, (model, got) in enumerate(zip(stage, seen, strict=True)):
        inputs = []
        model.block(number).mixer.qkv.register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
        with torch.no_grad():
            model(text())
        torch.testing.assert_close(got, moments_of(inputs[0].flatten(0, 1)))


def test_layers_that_read_the_same_share_their_moments():
    decoder, counts = decoder_of(mixer=Choice(name="nsa")), []

    def pack(block, moments):
        counts.append((moments[block.mixer.qkv] is moments[block.mixer.gate], len(moments)))
        pack_frozen(list(dense_layers(block)), GPTQ, moments)

    pack_block_by_block(decoder, text(), pack)
    assert [same for same, _ in counts] == [True, True]


def test_routers_and_stacked_experts_stay():
    decoder = decoder_of(mlp=Choice(name="moe", options={"shared_experts": 1}))
    pack_decoder(decoder, GPTQ, text())
    for number in range(2):
        mlp = decoder.block(number).mlp
        assert not isinstance(mlp.router.linear, PackedLinear) and mlp.gate_up.weight.ndim == 3
        assert isinstance(mlp.shared.down, PackedLinear)


class Numbers(TokenFile):
    """A token file whose tokens count up."""

    @property
    def tokens(self):
        return torch.arange(self.num_tokens).numpy()


def test_calibration_text_is_whole_rows_chosen_by_the_seed(tmp_path):
    packed = Packed(
        text_sha256="", tokenizer_sha256="", dtype="uint32", num_tokens=1001, num_documents=1, text_bytes=1,
        token_bytes=1, tokens=None, counts=None,
    )  # fmt: skip
    train = Numbers(tmp_path, packed, torch.zeros(1).numpy())
    wanted = Choice(name="gptq", options={"calibration_tokens": 100})
    rows = calibration_rows(wanted, train, 20, seed=0)
    assert rows.shape == (5, 20) and (rows[:, 1:] - rows[:, :-1] == 1).all() and len(set(rows[:, 0].tolist())) == 5
    assert torch.equal(rows, calibration_rows(wanted, train, 20, seed=0))
    assert not torch.equal(rows, calibration_rows(wanted, train, 20, seed=1))
    assert calibration_rows(Choice(name="gptq"), train, 20, seed=0).shape == (50, 20), "more than there is"
    assert calibration_rows(Choice(name="int4"), train, 20, seed=0) is None
    with pytest.raises(UserError, match="calibration_tokens 0: give a whole number from 1"):
        calibration_rows(Choice(name="gptq", options={"calibration_tokens": 0}), train, 20, seed=0)
