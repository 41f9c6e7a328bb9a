"""What a rank of `test_parallel_training.py` does: trains each case, says its losses and how good the model became.

python ranks_program.py TEXT CASES      (CASES: a JSON list of settings; rank 0 prints a JSON list of results)
"""

import json
import os
import sys
from pathlib import Path

import torch

from efficientllm.data.prepare import judged_rows, prepare
from efficientllm.devices.choose import open_device
from efficientllm.devices.links import measure_collectives
from efficientllm.models import expert_load
from efficientllm.models.block import Block
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.loop import TrainLoop
from efficientllm.training.parallel import is_share, local
from efficientllm.training.ranks import joined, ranks_here
from efficientllm.training.tokens import StepTokens
from efficientllm.workloads.quality import decoder_scorer

SHAPE = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
STEPS = 6


def settings_of(text, *, mlp=None, mixer="gqa", shape=None, **more):
    fields = {"micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 256, "vocab_tokens": 320}
    fields |= {"learning_rate": 3e-3, "clip_norm": 0.5, "warmup_ratio": 0.0, **more}
    choices = {"mlp": Choice(**(mlp or {"name": "dense"})), "mixer": Choice(name=mixer)}
    corpus = Choice(name=str(Path(text) / "corpus"))
    probe = PretrainSettings(shape={**SHAPE, **(shape or {})}, corpus=corpus, tokens=1, **choices, **fields)
    tokens = STEPS * probe.rows_per_step * probe.sequence_tokens
    return PretrainSettings(shape=probe.shape, corpus=corpus, tokens=tokens, **choices, **fields)


def train(text, case):
    """Train on this rank's part of a case, and return what there is to compare."""
    torch.set_num_threads(1)
    # capture and gradients are what sharding could break; the code that is made of the graph takes half a minute
    Block.compile = lambda block, **how: torch.nn.Module.compile(block, backend="aot_eager", fullgraph=True, **how)
    settings = settings_of(text, **case)
    prepared = prepare(settings, Path(text) / "cache", settings.tokens)
    ranks, device = ranks_here(settings.ranks), open_device("cpu")
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu")
    loop = TrainLoop(
        decoder, settings, StepTokens(prepared.train, settings, device.torch_device(), 0, ranks), device, ranks
    )
    steps = [(loop.step(), sorted(loop.watched.values())) for _ in range(STEPS)]
    loop.rehearse()  # changes nothing
    rows = torch.from_numpy(judged_rows(prepared.heldout, settings)[0])
    score = decoder_scorer(decoder, settings, loop.autocast)
    nats, count = score(rows)
    whole = loop.shards.whole_weights()
    return {
        "losses": [loss for loss, _ in steps],
        "watched": [value for _, values in steps for value in values],
        "nats": nats / count,
        "loads": expert_load.figures(decoder),
        "weights": {} if whole is None else {name: float(w.double().norm()) for name, w in whole.items()},
        "held": sum(local(p).numel() for p in decoder.parameters()),
        "shares": sum(is_share(p) for p in decoder.parameters()),
        "rank": ranks.rank,
    }


def main(text, cases):
    """Train all cases, met with the other ranks once."""
    ranks = ranks_here(cases[0]["ranks"])
    with joined(ranks, open_device("cpu")):
        results = [train(text, case) for case in cases]
        results.append(measure_collectives(open_device("cpu"), [1 << 16]))
    if ranks.rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # all is done and said; at an interpreter's own end a thread of torch's may still abort the process
