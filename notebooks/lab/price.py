"""What deterministic kernels cost on this machine: training steps with and without them, in turn.

    PYTHONPATH=. python lab/price.py runs/price.json

A ratio of times that alternate: what else the machine does then disturbs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import torch
from resnet50 import resnet50
from torch import nn


def use(deterministic: bool) -> None:
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic  # what those who want speed turn on
    torch.use_deterministic_algorithms(deterministic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    # Read when cuBLAS starts, so it cannot be switched in between: both sides run with it.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(1)  # threads that wait for each other measure the other programs
    batch, pixels, steps = (64, 128, 10) if gpu else (2, 64, 1)
    torch.manual_seed(0)
    model = resnet50().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(batch, 3, pixels, pixels, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def seconds(count: int) -> float:
        if gpu:
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / count

    rounds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds + 1):
        for deterministic in (False, True):
            use(deterministic)
            spent = seconds(steps)
            if number:  # the first round is for allocators and benchmarks
                rounds[deterministic].append(spent)
    pairs = zip(rounds[True], rounds[False], strict=True)
    measured = {
        "device": torch.cuda.get_device_name(device) if gpu else "the CPU",
        "images": [batch, 3, pixels, pixels],
        "step": median(rounds[False]),
        "ratios": [slow / fast for slow, fast in pairs],
    }
    options.out.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
