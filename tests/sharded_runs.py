"""Training of a decoder that FSDP2 has shared out over the ranks of a gloo group, with a stop in the middle.

python sharded_runs.py TEXT RANK WORLD      (TEXT: folder with a corpus; all ranks draw the same rows)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from efficientllm.data.prepare import prepare
from efficientllm.devices.choose import open_device
from efficientllm.models.build import build_decoder
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
from efficientllm.training.checkpoint import Checkpoints
from efficientllm.training.curve_log import CurveLog
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tokens import StepTokens

SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}
STEPS, STOP = 10, 4
ORIGIN = {"trial": "sharded"}


def loop_of(text, mlp="dense", *, shards=False, **more):
    """Return a training loop over the text of a folder."""
    choice = mlp if isinstance(mlp, Choice) else Choice(name=mlp)
    fields = {"tokens": 64 * STEPS, "micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 256}
    settings = PretrainSettings(
        shape=SMALL,
        mlp=choice,
        corpus=Choice(name=str(text / "corpus")),
        **{**fields, "vocab_tokens": 320, "learning_rate": 3e-3, **more},
    )
    prepared = prepare(settings, text / "cache", settings.tokens)
    dtype = getattr(torch, settings.weights_dtype)
    decoder = build_decoder(settings, vocab_tokens=320, seed=0, device="cpu").to(dtype)
    if shards:
        share_out(decoder)
    loop = TrainLoop(
        decoder,
        settings,
        StepTokens(prepared.train, settings, open_device("cpu").torch_device(), 0),
        open_device("cpu"),
    )
    if shards:  # one without parameters, as may be where only some of them are shared out
        loop.optimizer.add_param_group({"params": [], "weight_decay": 0.0})
    return loop


def share_out(decoder):
    """Let every rank hold its part of each weight."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for number in range(decoder.shape.num_layers):
        fully_shard(decoder.block(number), mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    register_fsdp_forward_method(decoder, "losses")


def go_on(text, folder, mlp):
    """Return the losses of a run that goes on from what is in a folder."""
    loop, checkpoints = loop_of(text, mlp, shards=True), Checkpoints(folder, ORIGIN)
    found = checkpoints.find()
    assert found.state is not None, found.refused
    log = CurveLog()
    checkpoints.load(found.state, loop, log)
    return [value for _, _, value in log] + [loop.step() for _ in range(loop.steps_left)]


def run_shards(text, rank, world, store):
    """Return the losses of a run that was not stopped, and of one that was; the checkpoints stay in the folder."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.set_num_threads(1)
    seen = {}
    for mlp in ("dense", "moe"):
        whole = loop_of(text, mlp, shards=True)
        seen[mlp] = [[whole.step() for _ in range(STEPS)]]
        loop, log = loop_of(text, mlp, shards=True), CurveLog()
        for _ in range(STOP):
            log.add("loss", "nats/token", loop.step())
        Checkpoints(text / f"sharded-{mlp}", ORIGIN).save(loop, log)
        seen[mlp].append(go_on(text, text / f"sharded-{mlp}", mlp))
    dist.destroy_process_group()
    return seen


if __name__ == "__main__":
    where, which, of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    told = run_shards(where, which, of, dist.FileStore(str(where / "meeting"), of))
    (where / f"rank-{which}.json").write_text(json.dumps(told))
    os._exit(0)  # as in ranks_program.py
