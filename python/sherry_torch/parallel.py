"""Processes: one per GPU under `torchrun`, or a single one without it."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass
class World:
    """The processes of a run and how they share the work: `mode` is none, ddp or fsdp."""

    rank: int
    size: int
    device: torch.device
    mode: str

    @staticmethod
    def start(mode: str, device: str) -> "World":
        """Joins the other processes, if there are any. Mode "auto" is ddp for several processes."""
        rank, size, local = (int(os.environ.get(name, default)) for name, default in
                             [("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)])  # fmt: skip
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        where = torch.device(device, local) if device == "cuda" else torch.device(device)
        if device == "cuda":
            torch.cuda.set_device(where)
        if mode == "auto":
            mode = "ddp" if size > 1 else "none"
        if mode == "none" and size > 1:
            raise ValueError("--parallel none is for a single process")
        if mode != "none":
            if "RANK" not in os.environ:
                raise ValueError(f"--parallel {mode} needs torchrun")
            # Saving a large model takes a while, during which the other processes wait.
            how = {"timeout": timedelta(minutes=30)}
            if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:
                how |= {"store": fresh_store(), "rank": rank, "world_size": size}
            dist.init_process_group("nccl" if device == "cuda" else "gloo", **how)
        return World(rank, size, where, mode)

    def stop(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def shard(self, module: nn.Module) -> None:
        """With fsdp, divides every block's parameters, and then the rest, among the processes."""
        if self.mode == "fsdp":
            mesh = init_device_mesh(self.device.type, (self.size,))
            for block in module.model.layers:
                fully_shard(block, mesh=mesh)
            fully_shard(module, mesh=mesh)

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call for training: with ddp, a wrapper that averages gradients."""
        return DistributedDataParallel(module, broadcast_buffers=False) if self.mode == "ddp" else module

    def settle(self, module: nn.Module) -> None:
        """Divides the parameters again that a forward pass without a backward pass has left gathered."""
        if self.mode == "fsdp":
            module.reshard()

    def sum(self, values: Tensor) -> list[float]:
        """Sums over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def agree(self, problem: "str | None") -> "str | None":
        """What went wrong on the first process, on all processes; also a barrier."""
        if self.size == 1:
            return problem
        box = [problem]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def fresh_store() -> dist.Store:
    """Where the processes of one machine find each other. `torchrun` keeps one store through all its restarts, so after a
    restart a process may read the address of one that is dead; a prefix for every restart keeps them apart. On several
    machines the number of restarts may differ, and there README's environment variable does it."""
    store, _, _ = next(dist.rendezvous("env://"))
    return dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def whole(tensor: Tensor) -> Tensor:
    """A parameter or moment in full; every process must take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(full: Tensor, model: Tensor) -> Tensor:
    """A tensor that every process has in full, placed and divided as `model` is."""
    full = full.to(model.device, model.dtype)
    if isinstance(model, DTensor):
        return distribute_tensor(full, model.device_mesh, model.placements, src_data_rank=None)
    return full


def share(windows: list[int], size: int, world: World) -> Iterator[list[int]]:
    """This process's windows of a step, in passes of equal length up to `size`. The union over all processes is always
    the same, so the number of processes does not change the run."""
    count = len(windows) // world.size
    mine = windows[world.rank * count : (world.rank + 1) * count]
    width = max(n for n in range(1, min(size, count) + 1) if count % n == 0)
    for start in range(0, count, width):
        yield mine[start : start + width]
