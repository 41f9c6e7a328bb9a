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
@pytest.mark.parametrize("position", catalog.names("position"))
def test_training_on_the_device_follows_that_on_the_processor(position, device):
    """Gradients of fused kernels with a mask, of the table in it too."""
    x = torch.randint(VOCAB, (2, 65), generator=torch.Generator().manual_seed(7))
    gradients = []
    for where in ("cpu", device):
        settings = InferenceSettings(shape=SHAPE, sequence_tokens=32, position=Choice(name=position))
        decoder = build_decoder(settings, vocab_tokens=VOCAB, seed=0, device="cpu").to(where)
        decoder.loss(x[:, :-1].to(where), x[:, 1:].to(where)).backward()
        gradients.append({name: p.grad.cpu() for name, p in decoder.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


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
@pytest.mark.parametrize("choices", CASES, ids=lambda case: next(iter(case.values())).name)
def test_the_compiled_engine_gives_the_same(choices, device, tmp_path):
    x = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = saved(tmp_path / "model", **choices)(x)
    served = engine(device, tmp_path / "model", compile=True, **choices)
    served.begin(2, 48)
    got = [served.prefill(x[:, :33]).clone()] + [served.decode(x[:, place]).clone() for place in range(33, 40)]
    torch.testing.assert_close(torch.stack(got, 1).cpu(), expected[:, 32:], atol=1e-4, rtol=1e-4)
