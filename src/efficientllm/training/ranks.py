"""Which of the processes that train one model this one is, and what they say to each other in small."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficientllm.devices._contract import Device
from efficientllm.errors import UserError

if TYPE_CHECKING:
    import torch

#: A rank that is silent for so long is lost: the others stop waiting for it.
_PATIENCE = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """One process of several.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.world == 1

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Replace values by their sum over all ranks, in place; return them."""
        if not self.alone:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def agree(self, value: float) -> float:
        """Return the mean of what all ranks have, the same number on each: for a choice that all must take alike."""
        if self.alone:
            return value
        import torch
        import torch.distributed as dist

        on_card = dist.get_backend() == "nccl"
        here = torch.tensor(value, dtype=torch.float64, device="cuda" if on_card else "cpu")
        return float(self.mean_(here))

    def mean_(self, values: torch.Tensor) -> torch.Tensor:
        """Replace values by their mean over all ranks, in place; return them."""
        return values if self.alone else self.sum_(values).div_(self.world)


#: A process that trains by itself.
ALONE = Ranks()


def ranks_here(wanted: int) -> Ranks:
    """Return which rank this process is, as torchrun's environment says it.

    Raises:
        UserError: the trial wants other ranks than were started.
    """
    if wanted == 1:
        return ALONE
    here = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if here.world != wanted:
        raise UserError(
            f"the trial wants ranks {wanted}, but {here.world} process(es) were started. "
            f"Start it with `efficientllm run`, or torchrun with --nproc-per-node {wanted}."
        )
    return here


@contextmanager
def joined(ranks: Ranks, device: Device) -> Iterator[None]:
    """Meet the other ranks for what is inside: over NCCL on CUDA, over gloo elsewhere.

    Who leaves by an error does not wait for the others: they may never come.
    """
    if ranks.alone:
        yield
        return
    import torch.distributed as dist

    where = device.torch_device()
    if where.type == "cuda":
        import torch

        torch.cuda.set_device(where)
        dist.init_process_group("nccl", device_id=where, timeout=_PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    yield
    device.synchronize()
    dist.barrier()
    dist.destroy_process_group()
