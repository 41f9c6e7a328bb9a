"""Tiny decoders and a few steps of a fine-tuning method, for the tests of methods."""

import torch

from efficientllm import catalog
from efficientllm.adapters.attach import attach
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.model_settings import ModelSettings

METHODS = catalog.names("method")
#: Those that train the decoder's own weights.
WHOLE = ("freeze", "full")
ADAPTERS = [name for name in METHODS if name not in WHOLE]

_SHAPE = {"width": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}
#: Models by what is special about them: a family's with biases, one of no family, one with experts.
MODELS = {
    "qwen": ModelSettings(shape={**_SHAPE, "qkv_bias": True}),
    "llama": ModelSettings(shape=_SHAPE),
    "mla": ModelSettings(shape=_SHAPE, mixer=Choice(name="mla", options={"latent_rank": 32})),
    "moe": ModelSettings(shape=_SHAPE, mlp=Choice(name="moe")),
}
VOCAB = 300
TOKENS = torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))


def decoder_of(model="qwen", dtype=torch.float32):
    """Return a decoder, the same each time, whose biases are not zero."""
    decoder = build_decoder(MODELS[model], vocab_tokens=VOCAB, seed=0, device="cpu", dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def attached(decoder, name, seed=3, **options):
    """Return a method at work, by default of a rank that fits the tiny models."""
    if not options and name not in (*WHOLE, "ia3"):
        options = {"rank": 8}
    return attach(decoder, FinetuneSettings(method=Choice(name=name, options=options)), seed)


def train(method, steps=4, autocast=False):
    """Take steps on one batch; return the loss before each, and after the last."""
    optimizer = torch.optim.AdamW(method.trained().values(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=autocast
        ):  # each time anew: it keeps copies of weights
            loss = method.decoder.loss(TOKENS[:, :-1], TOKENS[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, method.decoder.loss(TOKENS[:, :-1], TOKENS[:, 1:]).item()]


@torch.no_grad()
def logits(model):
    """Return what a model says of the batch."""
    return model(TOKENS)


def distance(found, wanted):
    """Return the largest difference, as a share of the largest number."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()
