"""Measure how other tools resume, for notebook 04's table. Optional: it installs nothing.

    python tests/peers_resume.py               every setup whose packages are installed
    python tests/peers_resume.py NAME ...      some of them

Each setup trains the same small run (batch norm, dropout, AdamW, cosine, shuffled; 4 epochs of 40
steps) three times: uninterrupted; killed after an epoch; killed in the middle of one. A killed run
is resumed in a new process. What is compared are the final weights, by hash, and the samples.
The packages: pip install ".[peers]", best in an environment of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

LENGTH, BATCH, EPOCHS = 160, 4, 4
STEPS = LENGTH // BATCH  # in an epoch
CUTS = {"at an epoch boundary": 2 * STEPS, "mid-epoch": STEPS + 25}
FILE = "checkpoint.pt"
SETUPS: dict[str, tuple[str, Callable[[int | None], nn.Module]]] = {}


def setup(package: str) -> Callable[[Any], Any]:
    """Register a script that trains in the working directory, and is killed after a step.

    It takes up what an earlier process left there. ``package`` is what it needs.
    """

    def register(function: Callable[[int | None], nn.Module]) -> Any:
        SETUPS[function.__name__] = (package, function)
        return function

    return register


class Samples(Dataset[Any]):
    """Random inputs and labels, each with its number."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(LENGTH, 8, generator=generator)
        self.y = torch.randint(0, 4, (LENGTH,), generator=generator)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "x": self.x[index], "labels": self.y[index]}


class Model(nn.Module):
    """Records the numbers of the samples that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
        )

    def forward(self, index: Tensor, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with Path("samples.txt").open("a") as file:
            print(*index.tolist(), file=file)
        return {"loss": F.cross_entropy(self.net(x), labels)}


def objects() -> tuple[Model, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)


def train_step(model: nn.Module, optimizer: Any, scheduler: Any, batch: dict[str, Tensor]) -> None:
    optimizer.zero_grad()
    model(**batch)["loss"].backward()
    optimizer.step()
    scheduler.step()


def kill() -> None:
    sys.stdout.flush()
    os._exit(0)


@setup("torch")
def savepoint(kill_after: int | None) -> nn.Module:
    """The course's reference; SAVEPOINT names another directory that holds the package."""
    where = os.environ.get("SAVEPOINT") or str(Path(__file__).parents[1] / "solutions")
    sys.path.insert(0, where)
    from savepoint.checkpoint import save_checkpoint
    from savepoint.resume import Progress, ResumableSampler, resume

    model, optimizer, scheduler = objects()
    progress, sampler = Progress(), ResumableSampler(LENGTH, seed=0)
    loader = DataLoader(Samples(), BATCH, sampler=sampler, generator=torch.Generator())
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {"progress": progress, "sampler": sampler}
    resume(FILE, **parts)
    for epoch in range(progress.next_epoch, EPOCHS):
        sampler.set_epoch(epoch)
        for batch in loader:
            train_step(model, optimizer, scheduler, batch)
            sampler.advance(len(batch["index"]))
            progress.end_batch()
            if progress.step == kill_after and progress.step % STEPS:
                save_checkpoint(FILE, epoch=progress.epoch, loss=0.0, **parts)
                kill()
        progress.end_epoch()
        if progress.step == kill_after:
            save_checkpoint(FILE, epoch=progress.epoch, loss=0.0, **parts)
            kill()
    return model


def plain(kill_after: int | None, generator: torch.Generator | None, stateful: bool = False) -> Any:
    """A loop that saves everything it has, and skips the batches that were done."""
    make: Any = DataLoader
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as make
    model, optimizer, scheduler = objects()
    loader = make(Samples(), batch_size=BATCH, shuffle=True, generator=generator)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if stateful:
        parts["loader"] = loader
    step = 0
    if Path(FILE).exists():
        saved = torch.load(FILE, weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step = saved["step"]
        torch.set_rng_state(saved["rng"])
    for epoch in range(step // STEPS, EPOCHS):
        if generator is not None and not stateful:
            generator.manual_seed(epoch)
        skip = 0 if stateful else step % STEPS
        for batch in islice(loader, skip, None):
            train_step(model, optimizer, scheduler, batch)
            step += 1
            if step == kill_after and step % STEPS:
                break
        if step == kill_after:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save(states | {"step": step, "rng": torch.get_rng_state()}, FILE)
            kill()
    return model


@setup("torch")
def plain_own_generator(kill_after: int | None) -> nn.Module:
    return plain(kill_after, torch.Generator())


@setup("torch")
def plain_global_rng(kill_after: int | None) -> nn.Module:
    return plain(kill_after, None)


@setup("torchdata")
def stateful_dataloader_generator(kill_after: int | None) -> nn.Module:
    return plain(kill_after, torch.Generator().manual_seed(0), stateful=True)


@setup("transformers")
def hf_trainer(kill_after: int | None) -> nn.Module:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == kill_after:
                kill()  # at the next step's beginning: the checkpoint is complete

    model, optimizer, scheduler = objects()
    arguments = TrainingArguments(
        output_dir="hf",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        save_strategy="steps",
        save_steps=kill_after or 10**6,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Samples(),
        optimizers=(optimizer, scheduler),
        callbacks=[Kill()],
    )
    trainer.train(resume_from_checkpoint=any(Path("hf").glob("checkpoint-*")))
    return model


def accelerated(kill_after: int | None, seedable: bool) -> nn.Module:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable)
    )
    model, optimizer, scheduler = objects()
    loader = DataLoader(Samples(), batch_size=BATCH, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    step = 0
    if Path("state").is_dir():
        accelerator.load_state("state")
        step = int(Path("step").read_text())
    for epoch in range(step // STEPS, EPOCHS):
        loader.set_epoch(epoch)
        left = accelerator.skip_first_batches(loader, step % STEPS) if step % STEPS else loader
        for batch in left:
            train_step(model, optimizer, scheduler, batch)
            step += 1
            if step == kill_after and step % STEPS:
                break
        if step == kill_after:
            accelerator.save_state("state")
            Path("step").write_text(str(step))
            kill()
    return accelerator.unwrap_model(model)


@setup("accelerate")
def accelerate_default(kill_after: int | None) -> nn.Module:
    return accelerated(kill_after, seedable=False)


@setup("accelerate")
def accelerate_seedable(kill_after: int | None) -> nn.Module:
    return accelerated(kill_after, seedable=True)


def lightning_run(kill_after: int | None, make: Any) -> nn.Module:
    import lightning.pytorch as pl

    model, optimizer, scheduler = objects()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step == kill_after:
                kill()  # at the next batch: ModelCheckpoint, which comes last, has saved

    on_epoch = kill_after is not None and kill_after % STEPS == 0
    when = {"every_n_epochs": 1} if on_epoch else {"every_n_train_steps": kill_after or 10**6}
    keep = pl.callbacks.ModelCheckpoint(
        dirpath="lightning", filename="last", save_on_train_epoch_end=on_epoch, **when
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
    )
    found = sorted(Path("lightning").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = str(found[-1].resolve()) if found else None
    trainer.fit(Module(), make(Samples(), batch_size=BATCH, shuffle=True), ckpt_path=resumed)
    return model


@setup("lightning")
def lightning(kill_after: int | None) -> nn.Module:
    return lightning_run(kill_after, DataLoader)


@setup("lightning torchdata")
def lightning_stateful_dataloader(kill_after: int | None) -> nn.Module:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return lightning_run(kill_after, StatefulDataLoader)


def ignited(kill_after: int | None, engine: str, workers: int) -> nn.Module:
    import ignite.engine
    from ignite.handlers import Checkpoint

    model, optimizer, scheduler = objects()
    trainer = getattr(ignite.engine, engine)(
        lambda _, batch: train_step(model, optimizer, scheduler, batch)
    )
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "trainer": trainer}
    events = ignite.engine.Events
    if kill_after is not None:

        def stop() -> None:
            torch.save({name: part.state_dict() for name, part in parts.items()}, FILE)
            kill()

        epoch, rest = divmod(kill_after, STEPS)
        at = events.ITERATION_COMPLETED(once=kill_after) if rest else None
        trainer.add_event_handler(at or events.EPOCH_COMPLETED(once=epoch), stop)
    if Path(FILE).exists():
        Checkpoint.load_objects(parts, torch.load(FILE, weights_only=False))
    loader = DataLoader(Samples(), batch_size=BATCH, shuffle=True, num_workers=workers)
    trainer.run(loader, max_epochs=EPOCHS)
    return model


@setup("pytorch-ignite")
def ignite_engine(kill_after: int | None) -> nn.Module:
    return ignited(kill_after, "Engine", 0)


@setup("pytorch-ignite")
def ignite_deterministic(kill_after: int | None) -> nn.Module:
    return ignited(kill_after, "DeterministicEngine", 0)


@setup("pytorch-ignite")
def ignite_deterministic_2_workers(kill_after: int | None) -> nn.Module:
    return ignited(kill_after, "DeterministicEngine", 2)


def run_here(name: str, kill_after: int | None) -> None:
    """In a process of its own: train; print the hash of the final weights, unless killed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = SETUPS[name][1](kill_after)
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().numpy().tobytes())
    Path("hash.txt").write_text(digest.hexdigest())


def start(name: str, folder: str, kill_after: int | None) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), "--run", name]
    command += ["--kill-after", str(kill_after)] if kill_after else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def measure(name: str, cut: int | None) -> tuple[str, list[list[int]]]:
    """(hash of the final weights, the samples of each epoch)."""
    with tempfile.TemporaryDirectory() as folder:
        if cut:
            start(name, folder, cut)
        start(name, folder, None)
        digest = Path(folder, "hash.txt").read_text()
        lines = Path(folder, "samples.txt").read_text().split("\n")[:-1]
    seen = [int(number) for line in lines for number in line.split()]
    return digest, [seen[first : first + LENGTH] for first in range(0, len(seen), LENGTH)]


def told(name: str, truth: tuple[str, list[list[int]]], cut: int) -> str:
    digest, epochs = measure(name, cut)
    if digest == truth[0]:
        return "identical"
    words = []
    epoch = epochs[(cut - 1) // STEPS]
    if twice := LENGTH - len(set(epoch)):
        words.append(f"{twice} of {LENGTH} samples twice, {twice} never")
    first = next((n for n, e in enumerate(epochs) if e != (truth[1] + [[]] * 9)[n]), None)
    words.append("order right" if first is None else f"order differs from epoch {first} on")
    return "no: " + ", ".join(words)


def missing(packages: str) -> list[str]:
    found = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    return [package for package in packages.split() if package not in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SETUPS))
    parser.add_argument("--run", choices=SETUPS, help=argparse.SUPPRESS)
    parser.add_argument("--kill-after", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run_here(options.run, options.kill_after)
    if unknown := set(options.names) - set(SETUPS):
        parser.error(
            f"no setup is called {', '.join(sorted(unknown))}; there are {', '.join(SETUPS)}"
        )
    print("torch", torch.__version__)
    for name in options.names or SETUPS:
        needed = SETUPS[name][0]
        if absent := missing(needed):
            print(f"{name}: not measured, {' and '.join(absent)} not installed", flush=True)
            continue
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in needed.split())
        try:
            truth = measure(name, None)
            again = "" if measure(name, None)[0] == truth[0] else " (two whole runs differ already)"
            found = [f"{where}: {told(name, truth, cut)}" for where, cut in CUTS.items()]
        except Exception as error:
            print(f"{name} ({versions}): not measured, {type(error).__name__}: {error}", flush=True)
            continue
        print(f"{name} ({versions}){again}: {'; '.join(found)}", flush=True)
    print(json.dumps({"length": LENGTH, "steps an epoch": STEPS, "cuts": CUTS}))
    return None


if __name__ == "__main__":
    main()
