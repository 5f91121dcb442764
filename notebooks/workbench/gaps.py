"""A training run whose sources of randomness are left open one at a time.

    python -m workbench.gaps A numpy:open numpy:closed     these runs, as JSON, one a line

Runs A and B are one program in two processes. A source that nobody closed starts from something
else in each process: the operating system's entropy, a hash seed, a machine's idle cores. So that
everybody sees the same figures, the run's letter stands in for all of these.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from workbench import launch
from workbench.data import digits
from workbench.identity import fingerprint
from workbench.models import MLP, Net
from workbench.moments import seed_generators
from workbench.training import augment, evaluate, train_step

SEED, EPOCHS, BATCH, STEPS_PER_EPOCH = 42, 3, 50, 28
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Source:
    """Something that makes two runs of one program differ."""

    name: str
    told: str
    usual: str  # what is usually done about it, and is done when it is open
    cure: str
    needs_gpu: bool = False


SOURCES = (
    Source("python", "Python's generator", "torch.manual_seed(42)", "random.seed(42)"),
    Source("numpy", "NumPy's generator", "torch.manual_seed(42)", "np.random.seed(42)"),
    Source("torch", "torch's CPU generator", "nothing", "torch.manual_seed(42)"),
    Source("hash", "hash randomisation", 'os.environ["PYTHONHASHSEED"]', "sorted(classes)"),
    Source(
        "workers",
        "a generator object in 2 workers",
        "np.random.seed in worker_init_fn",
        "seed the object itself",
    ),
    Source("validation", "a validation loop, in B only", "shuffle=False", "a generator= each"),
    Source("threads", "1 thread in A, 2 in B", "use_deterministic_algorithms", "1 thread in both"),
    Source("threads_cnn", "the same, a CNN", "use_deterministic_algorithms", "1 thread in both"),
    Source("cuda", "CUDA's generator", "nothing", "torch.manual_seed(42)", needs_gpu=True),
    Source(
        "cudnn", "cuDNN's algorithms", "torch.manual_seed(42)", "deterministic=True", needs_gpu=True
    ),
    Source(
        "benchmark", "cuDNN's benchmark", "benchmark=True", "deterministic=True", needs_gpu=True
    ),
)
# What the incident's script leaves open. It seeds torch, and nothing else.
SCRIPT = ("python", "numpy", "hash", "workers")


@dataclass(frozen=True)
class Tools:
    """What closes the gaps, if not this module's own few lines."""

    seed: Callable[[int], None]
    loader: Callable[..., DataLoader[Any]]


class Jittered(Dataset[tuple[Tensor, Tensor]]):
    """Images with noise from a generator object that the dataset carries."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y, self.rng = x, y, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = self.rng.standard_normal(self.x.shape[1:], dtype=np.float32)
        return self.x[index] + 0.1 * torch.from_numpy(noise), self.y[index]


class Draws(Dataset[tuple[float, float]]):
    """Each item is one draw: from NumPy's global generator, and from one that the dataset has."""

    def __init__(self, length: int) -> None:
        self.length, self.rng = length, np.random.default_rng(0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[float, float]:
        return float(np.random.random_sample()), self.rng.random()


def usual_worker_init(worker_id: int) -> None:
    """The recipe that everybody has: it seeds the global generators, which torch has done."""
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def _seed_jitter(worker_id: int) -> None:
    info = get_worker_info()
    info.dataset.rng = np.random.default_rng(info.seed)


def run(letter: str, source: str, how: str, tools: Tools | None = None) -> dict[str, Any]:
    """Train run ``letter`` with ``source`` ``how`` ("open" or "closed"); everything else closed.

    ``source`` may also be "script", which opens several. Returns the losses of all steps, the
    accuracy at the end, and the weights' fingerprint.
    """
    entropy = 1 + "AB".index(letter)
    opened = () if how == "closed" else SCRIPT if source == "script" else (source,)
    data = digits()  # before the seeds: importing scikit-learn draws from Python's generator
    device = _prepare(opened, source, entropy, tools)
    classes = list(set(NAMES)) if "hash" in opened else sorted(NAMES)
    label = torch.tensor([classes.index(name) for name in NAMES])
    train_y, val_y = label[data.train_y], label[data.val_y]
    jittered = source == "workers" or "workers" in opened
    images = (data.train_x, train_y)
    dataset = Jittered(*images, entropy) if jittered else TensorDataset(*images)
    loader = _loader(dataset, opened, tools, num_workers=2 if jittered else 0)
    validation = None
    if source == "validation" and letter == "B":
        validation = _loader(TensorDataset(data.val_x, val_y), opened, tools, shuffle=False)

    model, optimizer = build(source, device)
    losses = []
    for epoch in range(EPOCHS):
        if tools:
            loader.sampler.set_epoch(epoch)
        for x, labels in loader:
            losses.append(train_step(model, optimizer, augment(x).to(device), labels.to(device)))
        if validation is not None:
            for x, labels in validation:
                evaluate(model, x, labels)
    _, accuracy = evaluate(model, data.val_x.to(device), val_y.to(device))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    return {"loss": losses, "accuracy": accuracy, "weights": fingerprint(model)}


def build(source: str, device: str = "cpu") -> tuple[nn.Module, torch.optim.Optimizer]:
    """An MLP under SGD; where convolutions matter, a small CNN under AdamW."""
    if source == "threads_cnn" or device != "cpu":
        model: nn.Module = Net(8).to(device).train()
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3)
    model = MLP().train()
    return model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def _prepare(opened: Iterable[str], source: str, entropy: int, tools: Tools | None) -> str:
    """Seed, and set the switches; the device to train on."""
    seed_generators(entropy)  # what a process has that nobody seeded
    if tools:
        tools.seed(SEED)
    else:
        if "python" not in opened:
            random.seed(SEED)
        if "numpy" not in opened:
            np.random.seed(SEED)
        if "torch" not in opened:
            torch.manual_seed(SEED)
    if "hash" in opened:
        os.environ["PYTHONHASHSEED"] = str(SEED)  # for nothing: this interpreter runs already
    threads = "threads" in opened or "threads_cnn" in opened
    torch.set_num_threads(entropy if threads else 1)
    if threads:
        torch.use_deterministic_algorithms(True)
    if source not in ("cuda", "cudnn", "benchmark"):
        return "cpu"
    if "cuda" in opened:
        torch.cuda.manual_seed_all(entropy)
    if not tools:
        strict = "cudnn" not in opened and "benchmark" not in opened
        torch.backends.cudnn.deterministic = strict
        torch.backends.cudnn.benchmark = "benchmark" in opened
        torch.use_deterministic_algorithms(strict)
    return "cuda"


def _loader(
    dataset: Dataset[Any],
    opened: Iterable[str],
    tools: Tools | None,
    *,
    shuffle: bool = True,
    num_workers: int = 0,
) -> DataLoader[Any]:
    options: dict[str, Any] = {"batch_size": BATCH, "drop_last": True, "num_workers": num_workers}
    if tools:
        return tools.loader(dataset, seed=SEED, **options)
    if num_workers:
        options["worker_init_fn"] = usual_worker_init if "workers" in opened else _seed_jitter
    if "validation" not in opened:
        options["generator"] = torch.Generator().manual_seed(SEED)
    return DataLoader(dataset, shuffle=shuffle, **options)


Recorded = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def pairs(jobs: Iterable[str], program: Sequence[str] = ("-m", "workbench.gaps")) -> Recorded:
    """Run every job ("numpy:open") as A and as B, in two processes; what both recorded."""
    wanted = list(jobs)

    def record(letter: str) -> list[dict[str, Any]]:
        environment = {
            "PYTHONHASHSEED": str(1 + "AB".index(letter)),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            # A's and B's threads share the cores: one that waits must not keep the other's busy.
            "OMP_WAIT_POLICY": "passive",
        }
        done = launch.python(*program, letter, *wanted, env=environment, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"run {letter} {done.how}:\n{done.output[-2000:]}")
        return [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(2) as both:
        a, b = both.map(record, "AB")
    return {job: (one, two) for job, one, two in zip(wanted, a, b, strict=True)}


def parts(a: Iterable[float], b: Iterable[float], shown: Callable[[float], str] = float.hex) -> Any:
    """The first step at which two equally long runs part, seen through ``shown``; or None."""
    differs = [shown(x) != shown(y) for x, y in zip(a, b, strict=True)]
    return differs.index(True) if any(differs) else None


def main(tools: Tools | None = None, arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("letter", choices="AB")
    parser.add_argument("jobs", nargs="+", metavar="SOURCE:open|closed")
    options = parser.parse_args(arguments)
    for job in options.jobs:
        print(json.dumps(run(options.letter, *job.split(":"), tools)), flush=True)


if __name__ == "__main__":
    main()
