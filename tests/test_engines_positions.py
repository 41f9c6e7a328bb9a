"""Every position encoding and every design of a block, served: a captured or fixed step gives what training computes."""

import pytest
import torch

from efficientllm import catalog
from efficientllm.engines.native import open_native
from efficientllm.errors import Unsupported
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
VOCAB = 96
SHAPE = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96, "max_positions": 300}
CASES = [
    *({"position": Choice(name=name)} for name in catalog.names("position")),
    *({"preset": Choice(name=name)} for name in catalog.names("preset")),
]


def engine(device, folder=None, **choices):
    settings = InferenceSettings(shape=SHAPE, sequence_tokens=32, **choices)
    return open_native(settings, folder=folder, vocab_tokens=VOCAB, seed=0, device=device, threads=0)


def saved(folder, **choices):
    settings = InferenceSettings(shape=SHAPE, sequence_tokens=32, **choices)
    decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    checkpoint.save(decoder, settings, folder)
    return decoder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("choices", CASES, ids=lambda case: next(iter(case.values())).name)
def test_prefill_and_decode_give_the_logits_of_teacher_forcing(choices, device, tmp_path):
    x = torch.randint(VOCAB, (3, 47), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = saved(tmp_path / "model", **choices)(x)
    served = engine(device, tmp_path / "model", **choices)
    served.begin(3, 47)
    got = [served.prefill(x[:, :29]).cpu().clone(), served.prefill(x[:, 29:40]).cpu().clone()]
    got += [served.decode(x[:, place].to(served.device)).cpu().clone() for place in range(40, 47)]
    for logits, place in zip(got, (28, *range(39, 47)), strict=True):
        torch.testing.assert_close(logits, expected[:, place], atol=1e-4, rtol=1e-4)
    served.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("position", catalog.names("position"))
def test_training_gives_the_gradients_of_the_plain_reference_in_float32(position, autocast, device):
    """Fused kernels with a mask of all pairs, whose gradient reaches a table in it."""
    x = torch.randint(VOCAB, (2, 65), generator=torch.Generator().manual_seed(7))
    settings = InferenceSettings(shape=SHAPE, sequence_tokens=32, position=Choice(name=position))
    decoders = [build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu") for _ in range(2)]
    for number in range(2):
        layer = decoders[0].block(number).mixer
        layer.forward = lambda x, positions, state, ids, layer=layer: layer.reference(x, positions, ids)
    decoders[0].loss(x[:, :-1], x[:, 1:]).backward()
    x = x.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        loss = decoders[1].to(device).loss(x[:, :-1], x[:, 1:])
    loss.backward()
    for (name, expected), got in zip(decoders[0].named_parameters(), decoders[1].parameters(), strict=True):
        gap = (got.grad.cpu() - expected.grad).norm() / expected.grad.norm()
        assert gap < (0.05 if autocast else 1e-3), f"{name} is {gap:.2%} off"


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_beyond_the_learned_positions_is_refused_and_one_up_to_them_is_served(device):
    served = engine(device, position=Choice(name="learned"))
    with pytest.raises(Unsupported, match="301 tokens exceed the 300 positions"):
        served.begin(1, 301)
    served.begin(1, 300)  # on CUDA there is room for more than may be asked for
    served.prefill(torch.zeros(1, 299, dtype=torch.int64))
    assert served.decode(torch.zeros(1, dtype=torch.int64)).isfinite().all()


@pytest.mark.prove
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "choices",
    [*CASES, {"mixer": Choice(name="mha"), "position": Choice(name="alibi")}],
    ids=lambda case: next(iter(case.values())).name,
)
def test_the_compiled_engine_gives_the_same(choices, device, tmp_path):
    x = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = saved(tmp_path / "model", **choices)(x)
    served = engine(device, tmp_path / "model", compile=True, **choices)
    served.begin(2, 48)
    got = [served.prefill(x[:, :33]).clone()] + [served.decode(x[:, place]).clone() for place in range(33, 40)]
    torch.testing.assert_close(torch.stack(got, 1).cpu(), expected[:, 32:], atol=1e-4, rtol=1e-4)
