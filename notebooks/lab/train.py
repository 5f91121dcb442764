r"""A training script that may be killed anywhere, on any number of ranks: a start for your own.

    export PYTHONPATH=.           # where the savepoint package lies
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # or a restarted rank may call a dead one (2.13)
    torchrun --standalone --nproc-per-node 2 lab/train.py runs/a
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 lab/train.py runs/b \
        --rehearse KILL 1 40      # kill -9 of rank 1 after step 40; torchrun starts all again
    python lab/train.py runs/c    # one process, no group

Start it again with the same directory, and it goes on from the last checkpoint there, on as many
ranks as there are now. ``network``, ``images`` and ``Log`` are this course's: put in yours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import savepoint
import torch
import torch.distributed as dist
from savepoint.distributed import save_checkpoint_ddp, unwrap
from savepoint.resume import Progress, ResumableSampler, resume
from savepoint.seeding import set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset


def network() -> nn.Module:
    """Batch norm and dropout: both have state that a resume must bring back."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10)),
    )


def images() -> TensorDataset:
    """Row number, image, label: 1,797 handwritten digits of 8 x 8 pixels (scikit-learn's)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32) / 16
    return TensorDataset(torch.arange(len(x)), x, torch.tensor(digits.target))


def place(gpus: int, local_rank: int, local_ranks: int, wanted: str = "auto") -> tuple[str, str]:
    """(device, backend) of a rank: a GPU and NCCL if there is one for each rank of this machine,
    else the CPU and gloo for all of them."""
    if wanted == "cuda" and gpus < local_ranks:
        raise SystemExit(f"{local_ranks} ranks and {gpus} GPUs: one rank a GPU, or --device cpu")
    if wanted == "cpu" or gpus < local_ranks:
        return "cpu", "gloo"
    return f"cuda:{local_rank}", "cpu:gloo,cuda:nccl"  # each carries its own device's tensors


@contextmanager
def process_group(wanted: str) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, world size, device), and a process group around the block if torchrun started us."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    name, backend = place(torch.cuda.device_count(), local_rank, local_ranks, wanted)
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # the order of summation, and so the bits, depend on it
    if "RANK" not in os.environ:
        yield rank, world_size, device
        return
    dist.init_process_group(backend)
    yield rank, world_size, device
    dist.destroy_process_group()  # not after an exception: the others may be gone


class Stop:
    """Remembers a SIGTERM: a cluster that takes its machine back sends one and waits a little."""

    def __init__(self, device: torch.device) -> None:
        self.asked, self.device = False, device
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))

    def agreed(self) -> bool:
        """Whether any rank was asked to stop: all must stop after the same step, or some wait."""
        if not dist.is_initialized():
            return self.asked
        flag = torch.tensor(float(self.asked), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)


class Log:
    """One JSON line a step and rank, written through: it is whole after a kill -9, too."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.file = (directory / f"log-{rank}.jsonl").open("a", buffering=1)

    def __call__(self, **what: Any) -> None:
        print(json.dumps(what), file=self.file)


def rehearse(plan: list[str] | None, rank: int, step: int) -> None:
    """--rehearse SIGNAL RANK STEP: send this rank the signal after the step, in its first life."""
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if plan and first_life and [rank, step] == [int(plan[1]), int(plan[2])]:
        os.kill(os.getpid(), signal.Signals[f"SIG{plan[0]}"])


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the bytes of every weight and buffer."""
    digest = hashlib.sha256()
    for name, tensor in unwrap(model).state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    bare = unwrap(model).eval()  # through DDP, rank 0 alone would wait for the others
    right = (bare(x).argmax(1) == y).float().mean().item()
    bare.train()
    return right


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train; started again, go on.")
    parser.add_argument("directory", type=Path, help="checkpoint, log and result go there")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=48, help="over all ranks")
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--exact", action="store_true", help="bit-identical on 3 ranks and more")
    parser.add_argument("--rehearse", nargs=3, metavar=("SIGNAL", "RANK", "STEP"))
    return parser.parse_args()


def train(options: argparse.Namespace, rank: int, ranks: int, device: torch.device) -> None:
    stop, log = Stop(device), Log(options.directory, rank)
    path = options.directory / "run.pt"
    rows, x, y = images().tensors
    data = TensorDataset(rows, x.to(device), y.to(device))
    steps = options.epochs * math.ceil(len(data) / options.batch_size)

    model = network().to(device)
    if dist.is_initialized():
        # --exact keeps DDP's first layout of gradient buckets. Without it DDP rebuilds them after
        # its first step: a resumed run then sums its first step's gradients in another order.
        model = DistributedDataParallel(model, find_unused_parameters=options.exact)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    progress = Progress()
    sampler = ResumableSampler(len(data), seed=options.seed, rank=rank, world_size=ranks)
    # A generator of its own: iter(loader) then draws nothing from the one that resume restores.
    loader = DataLoader(
        data, options.batch_size // ranks, sampler=sampler, generator=torch.Generator()
    )
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {"progress": progress, "sampler": sampler}

    set_seed(options.seed + rank)  # from here on each rank draws noise of its own
    resumed = resume(path, map_location=device, **parts)
    log(start=True, resumed=resumed, step=progress.step, ranks=ranks, device=str(device))

    def save(loss: float) -> None:
        save_checkpoint_ddp(path, epoch=progress.epoch, loss=loss, **parts)

    last_loss = math.nan  # stays so where the file was written after an epoch's last step
    for epoch in range(progress.next_epoch, options.epochs):
        sampler.set_epoch(epoch)
        for numbers, inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            sampler.advance(len(labels) * ranks)
            progress.end_batch()
            last_loss = loss.item()
            log(step=progress.step, epoch=epoch, loss=last_loss, rows=numbers.tolist())
            rehearse(options.rehearse, rank, progress.step)
            if stop.agreed():
                save(last_loss)
                log(stopped=True, step=progress.step)
                return
            if progress.step % options.save_every == 0:
                save(last_loss)
        progress.end_epoch()
        save(last_loss)

    if rank == 0:
        right = accuracy(model, x.to(device), y.to(device))
        result = {"weights": fingerprint(model), "accuracy": right, "step": progress.step}
        (options.directory / "result.json").write_text(json.dumps(result))


def main() -> None:
    options = arguments()
    options.directory.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)  # before CUDA starts: cuBLAS reads its workspace setting only then
    with process_group(options.device) as (rank, ranks, device):
        if options.batch_size % ranks:
            raise SystemExit(f"--batch-size {options.batch_size} does not divide by {ranks} ranks")
        if rank == 0:
            backend = dist.get_backend() if dist.is_initialized() else "no group"
            print(f"{ranks} rank(s), {device.type}, {backend}; {savepoint.__file__}", flush=True)
        train(options, rank, ranks, device)


if __name__ == "__main__":
    main()
