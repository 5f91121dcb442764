"""Incident 02: a training run that set_seed and seeded_loader are to make repeatable."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from workbench import gaps

from grader.child import Context, probe
from grader.probes.seed_gaps_data import Numbered, excuse_stub
from grader.probes.training import CLASSES, WIDTH, Stack, model_tensors, noisy


@probe
def train(context: Context):
    """Seed, build, train; after each epoch perhaps a validation pass over a second loader."""
    args = context.args
    module = context.module("seeding")
    excuse_stub(module)
    length, seed = args["length"], args["seed"]
    own = torch.Generator().manual_seed(args["data_seed"])
    x = torch.randn(length, WIDTH, generator=own)
    y = torch.randint(CLASSES, (length,), generator=own)

    # Not deterministic: in a new interpreter torch takes a second to throw that switch.
    said = f"set_seed({seed}, deterministic=False)"
    context.call(module, "set_seed", seed, deterministic=False, said=said)
    model = Stack(dropout=0.3)

    def loader() -> Any:
        said = f"seeded_loader(dataset, seed={seed}, batch_size={args['batch_size']})"
        options = {"seed": seed, "batch_size": args["batch_size"]}
        return context.call(module, "seeded_loader", Numbered(length), **options, said=said)

    training, validation = loader(), loader() if args["validate"] else None
    losses: list[float] = []
    order: list[int] = []
    for epoch in range(args["epochs"]):
        training.sampler.set_epoch(epoch)
        context.stage("training over seeded_loader(…)")
        for batch in training:
            rows = [int(index) for index in batch]
            order += rows
            losses.append(_step(model, noisy(x[rows]), y[rows]))
        if validation is not None:
            model.eval()
            with torch.no_grad():
                for batch in validation:
                    model(x[[int(index) for index in batch]])
            model.train()
    tensors: dict[str, Tensor] = model_tensors(model, "model")
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors["order"] = torch.tensor(order)
    return {}, tensors


def _step(model: torch.nn.Module, x: Tensor, y: Tensor, lr: float = 0.05) -> float:
    """Plain SGD, by hand: importing torch.optim's machinery costs a new interpreter a second."""
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    return loss.item()


@probe
def replay(context: Context):
    """The notebook's matrix with the learner's package: each job as A and B, two interpreters."""
    module = context.module("seeding")
    excuse_stub(module)
    context.call(module, "set_seed", 0, said="set_seed(0)")
    context.call(
        module, "seeded_loader", Numbered(4), seed=0, said="seeded_loader(dataset, seed=0)"
    )
    start = f"from {__name__} import main; main()"
    context.stage("two training runs with your package")
    runs = gaps.pairs(context.args["jobs"], ("-B", "-c", start, str(context.package)))
    answers = {}
    for job, (a, b) in runs.items():
        try:
            answers[job] = str(module.first_divergence(a["loss"], b["loss"]))
        except NotImplementedError:
            answers[job] = "not yet"
    return {"runs": runs, "said": answers}


def main() -> None:
    """In one of the two: gaps.main, with the learner's functions as its tools."""
    package, *arguments = sys.argv[1:]
    sys.path.insert(0, package)
    module = importlib.import_module("savepoint.seeding")
    excuse_stub(module)
    gaps.main(gaps.Tools(module.set_seed, module.seeded_loader), arguments)
