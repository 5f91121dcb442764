"""How long training stands still for a checkpoint of ResNet-50's size, written in three ways.

    PYTHONPATH=. torchrun --standalone --nproc-per-node 2 lab/stall.py runs/stall

Each way saves twice, with training in between; the lesser time of the two is told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from resnet50 import resnet50
from savepoint.distributed import save_checkpoint_ddp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.nn.parallel import DistributedDataParallel
from train import process_group

SAVES = 2
Save = Callable[[Path], tuple[float, float]]


class Trainer:
    """ResNet-50 with AdamW in DDP, on random images that are small: the size is the weights'."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.model = DistributedDataParallel(resnet50().to(device))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.images = torch.randn(2, 3, 32, 32, device=device)
        self.labels = torch.randint(1000, (2,), device=device)
        # The thread that writes has collectives of its own: in training's group they would meet.
        self.writers = dist.new_group(backend="gloo")

    def steps(self, count: int) -> float:
        """Train; seconds a step."""
        self.finish()
        begin = time.perf_counter()
        for _ in range(count):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
            self.optimizer.step()
        self.finish()
        return (time.perf_counter() - begin) / count

    def finish(self) -> None:
        """Wait for what the GPU still has to do: its work is started, not done, by a call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        dist.barrier()

    def savepoint(self, path: Path) -> tuple[float, float]:
        """(seconds until training goes on, seconds until the file is safe): here the same."""
        begin = time.perf_counter()
        save_checkpoint_ddp(
            path, model=self.model, optimizer=self.optimizer, scheduler=None, epoch=0, loss=0.0
        )
        return (time.perf_counter() - begin,) * 2

    def dcp(self, path: Path) -> tuple[float, float]:
        """torch.distributed.checkpoint: every rank writes a share, in a file of its own."""
        begin = time.perf_counter()
        dcp.save(self.state(), checkpoint_id=path)
        return (time.perf_counter() - begin,) * 2

    def dcp_async(self, path: Path) -> tuple[float, float]:
        """The same; it returns when the state is copied, and a thread writes the copy."""
        begin = time.perf_counter()
        written = dcp.async_save(self.state(), checkpoint_id=path, process_group=self.writers)
        stall = time.perf_counter() - begin
        while self.any_rank(not written.done()):
            self.steps(1)
        written.result()
        return stall, time.perf_counter() - begin

    def any_rank(self, holds: bool) -> bool:
        """On all ranks alike: a step that only some of them take would wait for ever."""
        flag = torch.tensor(float(holds), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}


def measure(save: Save, trainer: Trainer, directory: Path) -> dict[str, float]:
    """The least of ``SAVES``, on the rank that takes longest; and the size of what was written."""
    stalls, totals = [], []
    for number in range(SAVES):
        path = directory / f"{save.__name__}-{number}"
        trainer.steps(1)
        stall, total = save(path)
        stalls.append(stall)
        totals.append(total)
        trainer.finish()
        written = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(file.stat().st_size for file in written)
        trainer.finish()
        if dist.get_rank() == 0:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    slowest = torch.tensor([min(stalls), min(totals)], device=trainer.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return {"stall": slowest[0].item(), "safe": slowest[1].item(), "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with process_group(options.device) as (rank, ranks, device):
        trainer = Trainer(device)
        trainer.steps(1)  # AdamW has no state before its first step
        measured: dict[str, Any] = {
            "ranks": ranks,
            "device": device.type,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "step": trainer.steps(2),
        }
        for save in (trainer.savepoint, trainer.dcp, trainer.dcp_async):
            measured[save.__name__] = measure(save, trainer, options.directory)
        if rank == 0:
            (options.directory / "stall.json").write_text(json.dumps(measured))
    # Not by returning: gloo's second group, taken down as an object, sometimes waits for ever
    # (2 of 7 runs on torch 2.13). All is written, and the groups have been left.
    os._exit(0)


if __name__ == "__main__":
    main()
