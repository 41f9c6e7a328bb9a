"""The state of a loop whose weights lie over several ranks (FSDP2), by torch's distributed checkpoint.

    shards/__<rank>_0.distcp    each rank writes the shares that it holds, at once
    shards/.metadata            which share of what is where, by the first rank
    random.<rank>.safetensors   states of its random number generators

What every rank holds whole is written by one of them. Another number of ranks can read it: the shares are cut anew.
Source: https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.store.atomic import sync_folder
from efficientllm.training.group import all_say, rank_here
from efficientllm.training.loop import TrainLoop
from efficientllm.training.loop_state import Numbers, group_numbers, random_states, set_group, set_random_states
from efficientllm.training.tensor_file import file_crc32, read_tensors, write_tensors

SHARDS = "shards"


def write_shards(loop: TrainLoop, folder: Path) -> tuple[dict[str, int], Numbers]:
    """Write this rank's files, together with the other ranks; return the CRC-32 of all ranks' and the numbers.

    Raises:
        Unsupported: the optimiser remembers something that is no tensor.
        OSError: on all ranks, if one could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(_tensors(loop), storage_writer=FileSystemWriter(folder / SHARDS))  # which syncs its files
    except CheckpointException as error:  # on all ranks; it is no Exception
        raise OSError("; ".join(f"rank {rank}: {what[0]}" for rank, what in error.failures.items())) from error
    said = all_say(_own_files(loop, folder))
    for problem in said:
        if isinstance(problem, OSError):
            raise problem
    checksums = {name: checksum for part in said if isinstance(part, dict) for name, checksum in part.items()}
    return checksums, {"of_groups": group_numbers(loop.optimizer)}


@torch.no_grad()
def read_shards(loop: TrainLoop, folder: Path, numbers: Numbers) -> None:
    """Put what `write_shards` wrote into loops that have taken no step, on all ranks together.

    The shares are filled where they are. `set_state_dict` would do more than is wanted: it casts what is remembered to
    the weights' type, and takes the options of a group without parameters away.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _tensors(loop)  # which lets the optimiser make what it remembers
    load(state, storage_reader=FileSystemReader(folder / SHARDS))
    for group, saved in zip(loop.optimizer.param_groups, numbers["of_groups"], strict=True):
        set_group(group, saved)
    random = folder / f"random.{rank_here()}.safetensors"
    if random.exists():  # a rank that is new begins with its own
        set_random_states(loop, dict(read_tensors(random)))


def _own_files(loop: TrainLoop, folder: Path) -> dict[str, int] | OSError:
    """Return the CRC-32 of what this rank has written, the states of its generators among it; or why it could not."""
    rank = rank_here()
    random = f"random.{rank}.safetensors"
    try:
        checksums = {random: write_tensors(folder / random, random_states(loop))}
        written = sorted((folder / SHARDS).glob(f"__{rank}_*"))
        if rank == 0:
            written.append(folder / SHARDS / ".metadata")
            sync_folder(folder / SHARDS)
        return checksums | {str(path.relative_to(folder)): file_crc32(path) for path in written}
    except OSError as error:
        return error


def _tensors(loop: TrainLoop) -> dict[str, Any]:
    """Return all tensors, themselves, by what they are of: tensors alone need no pickle."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = get_state_dict(loop.decoder, loop.optimizer)
    remembered: Any = optimizer["state"]
    for of_one in remembered.values():
        for key, value in of_one.items():
            if not isinstance(value, Tensor):
                raise Unsupported(
                    f"optimizer {loop.settings.optimizer.name} remembers {key} as a {type(value).__name__}, which a "
                    "sharded checkpoint cannot hold: run it with checkpoint_every 0"
                )
    return {"model": model, "optimizer": remembered, "buffers": dict(loop.decoder.named_buffers())}
