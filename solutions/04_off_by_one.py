# %% [markdown]
# # Off by one
#
# After this notebook you can
# - say, for any checkpoint, what is done and what comes next: epoch, batch, sample, learning rate;
# - put the lines at the end of an epoch in the one order that survives a kill;
# - resume in the middle of an epoch with every sample trained exactly once, on another number of
#   ranks too.
#
# **Before you start:** notebook 01. Section 7's check `group` uses `savepoint/distributed.py` of
# notebook 03.

# %%
import copy
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, Sampler
from workbench import MLP, batches, digits, evaluate, fingerprint, train_step
from workbench.figures import HEALTHY, STYLES, YOURS, figure, show, table
from workbench.moments import Moment, seed_generators
from workbench.samples import counted, repeated_and_never, strips
from workbench.training import augment

from grader import card, check, replay, tasks

# Bits depend on the order of summation, and that on the number of threads (notebook 02).
torch.set_num_threads(1)
card("off_by_one")

# %% [markdown]
# ## 1. Incident report
#
# | | |
# |---|---|
# | **Symptom** | Three tickets in one month. *The run was to train 10 epochs and its log has 11.* *The learning rate drops one epoch later than in the config.* *The best model of last week is gone; in its place is a worse one.* |
# | **Timeline** | All three runs were pre-empted and resumed by the same script. The checkpoint holds model, optimizer, scheduler, epoch and generators. It loads without a word. |
# | **Impact** | No crash, no jump in the loss. Found by someone who counted the lines of a log. |
# | **Not the cause** | Nothing is missing from the file but one number. The bugs are in *when* it is written and in *where* the script goes on. |
#
# The report is put together from several cases. These are real, and happened to frameworks: [Catalyst #764](https://github.com/catalyst-team/catalyst/issues/764)
# repeated the last epoch, [Lightning #1772](https://github.com/Lightning-AI/pytorch-lightning/issues/1772)
# saved before its scheduler stepped,
# [OpenRLHF PR 1333](https://github.com/OpenRLHF/OpenRLHF/pull/1333) let a worse model delete the best.
# Read the first posts only.

# %% [markdown]
# ## 2. Predict
#
# A script writes its checkpoint at the end of each epoch, *before* `scheduler.step()`. Everything
# else is right. A run of 10 epochs is killed three times, each time just after an epoch's end, and
# resumed. In the last epoch, its learning rate is behind the uninterrupted run's by
#
# - **a** nothing: the scheduler catches up
# - **b** one epoch
# - **c** three epochs
# - **d** that depends on the schedule: cosine or steps
#
# Write your letter as text. You get the point for committing, not for being right.

# %% nbgrader={"grade_id": "off_by_one-prediction-answer"}
### BEGIN SOLUTION
prediction = "c"
### END SOLUTION

# %% nbgrader={"grade_id": "off_by_one-prediction"}
check("off_by_one.prediction", prediction)

# %% [markdown]
# ## 3. Reproduce
#
# The script: an MLP on digits, SGD with momentum, a cosine schedule that steps once an epoch. `file`
# stands for the disk. A `Moment` holds model, optimizer, scheduler and generators, complete: this time
# nothing is forgotten. The two mistakes differ from the right script in one line each.

# %%
EPOCHS, data = 10, digits()


def script(file, *, mistake="", kill_after=None, seed=0):
    """From the first line of a training script to its end, or to the kill after an epoch's end."""
    seed_generators(seed + (99 if file else 0))
    model = MLP(64, 128, 128, 10, dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    run = {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    start_epoch, log = 0, []
    if file:
        file["everything"].restore(run)
        start_epoch = file["epoch"] if mistake == "start at epoch" else file["epoch"] + 1

    for epoch in range(start_epoch, EPOCHS):
        lr = optimizer.param_groups[0]["lr"]
        for x, y in batches(data.train_x, data.train_y, batch_size=50, seed=seed, epoch=epoch):
            train_step(model, optimizer, augment(x), y)
        if mistake == "save first":
            file.update(epoch=epoch, everything=Moment(run))
            scheduler.step()
        else:
            scheduler.step()
            file.update(epoch=epoch, everything=Moment(run))
        log.append((epoch, lr, evaluate(model, data.val_x, data.val_y)[0]))
        if epoch == kill_after:
            break
    return run, log


def killed(after, mistake="", seed=0):
    """The script, killed after each of these epochs and started again: (objects, whole log)."""
    file, log = {}, []
    for kill_after in [*after, None]:
        run, more = script(file, mistake=mistake, kill_after=kill_after, seed=seed)
        log += more
    return run, log


RUNS = {
    "never killed": ([], ""),
    "killed once, right": ([4], ""),
    "killed once, starts at epoch": ([4], "start at epoch"),
    "killed once, saves before the step": ([4], "save first"),
    "killed 3 times, starts at epoch": ([2, 4, 6], "start at epoch"),
    "killed 3 times, saves before the step": ([2, 4, 6], "save first"),
}
runs = {name: killed(*how) for name, how in RUNS.items()}
table(
    ["run", "epochs trained", "the log's epochs"],
    [
        (name, len(log), " ".join(str(epoch) for epoch, _, _ in log))
        for name, (_, log) in runs.items()
    ],
)

# %% [markdown]
# The first ticket: `range(checkpoint["epoch"], EPOCHS)` trains an epoch twice, once more with each kill.
# In the third ticket's script the log looks perfect.

# %% [markdown]
# ## 4. Measure
#
# ### The learning rate
#
# Each epoch's rate, as the script used it. Where an epoch was trained twice, both rates.


# %%
def rates(log):
    """Epoch -> the learning rates it was trained with."""
    found = {}
    for epoch, lr, _ in log:
        found.setdefault(epoch, []).append(lr)
    return found


table(
    ["epoch", *(str(epoch) for epoch in range(EPOCHS))],
    [
        (name, *(", ".join(f"{lr:.4f}" for lr in rates(log)[epoch]) for epoch in range(EPOCHS)))
        for name, (_, log) in runs.items()
    ],
)


# %%
def rate_figure(shown, kills, styles=STYLES):
    """Learning rate against epoch; an epoch that was trained twice has two marks.

    ``kills``: how many epochs were done at each kill, fractions of one included.
    """
    fig, ax = figure(size=(9, 4.6))
    for (name, log), style, mark in zip(shown.items(), styles, "osD^vP*", strict=False):
        ax.plot(
            [epoch for epoch, _ in log],
            [lr for _, lr in log],
            marker=mark,
            ms=5,
            label=name,
            **style,
        )
    for kill in kills:
        ax.axvline(kill - 0.5, color="#666666", linewidth=0.8)
    ax.text(min(kills) - 0.45, -0.002, "killed", fontsize=8.5, color="#444444")
    ax.set(xlabel="epoch", ylabel="learning rate", xticks=range(EPOCHS))
    ax.set(xlim=(-0.6, EPOCHS - 0.4), ylim=(-0.004, 0.112))
    ax.legend(frameon=False, fontsize=8.5, loc="upper right")
    last = "; ".join(f"{name} {log[-1][1]:.4f}" for name, log in shown.items())
    pairs = [(name, epoch, lr) for name, log in shown.items() for epoch, lr in log]
    return show(
        fig,
        f"Learning rate against epoch, {len(kills)} kills marked by lines. Rate of the last epoch: "
        f"{last}.",
        dict(zip(("run", "epoch", "learning rate"), zip(*pairs, strict=True), strict=True)),
    )


curves = {name: [(epoch, lr) for epoch, lr, _ in log] for name, (_, log) in runs.items()}
del curves["killed once, right"]  # it lies on "never killed"
rate_figure(curves, kills=[3, 5, 7])

# %% [markdown]
# - **Starts at epoch:** the schedule runs *ahead* of the epochs, one more with each kill. Killed three times,
#   it reaches 0 three epochs early, trains an epoch at rate 0, and then the cosine comes up again.
# - **Saves before the step:** the schedule runs *behind*, one epoch more with each kill, and never arrives at
#   its small rates. Your prediction:

# %%
truth, late = (curves[name] for name in ("never killed", "killed 3 times, saves before the step"))
at = min(range(EPOCHS), key=lambda epoch: abs(truth[epoch][1] - late[-1][1]))
print(f"Last epoch's rate {late[-1][1]:.4f}: the uninterrupted run had it in epoch {at},")
print(f"{EPOCHS - 1 - at} epochs before its last. (You said: {prediction})")

# %% [markdown]
# ### What it looks like to you
#
# Validation loss at the end, mean of four seeds, beside what was really done:

# %%
loss = {name: [runs[name][1][-1][2]] for name in RUNS}
for seed in (1, 2, 3):
    for name, how in RUNS.items():
        loss[name].append(killed(*how, seed=seed)[1][-1][2])

reference = fingerprint(runs["never killed"][0]["model"])
table(
    ["run", "optimizer steps", "schedule's count", "validation loss", "same weights"],
    [
        (
            name,
            len(log) * (len(data.train_x) // 50),
            run["scheduler"].last_epoch,
            f"{np.mean(loss[name]):.3f} ± {np.std(loss[name]):.3f}",
            fingerprint(run["model"]) == reference,
        )
        for name, (run, log) in runs.items()
    ],
)

# %% [markdown]
# The losses are within each other's spread; one of the broken runs may even look better. No curve
# will show you this bug. The schedule's count does, and so does a hash.
#
# ### The best model
#
# A run with a constant rate, so that its validation loss goes up and down. It keeps its best weights in a
# file. Killed right after its best epoch, and resumed by a script in which `best` starts at infinity:

# %%
seed_generators(0)
noisy = MLP(64, 128, 128, 10, dropout=0.1)
optimizer = torch.optim.AdamW(noisy.parameters(), lr=0.01)
val, weights = [], []
for epoch in range(16):
    for x, y in batches(data.train_x, data.train_y, batch_size=50, seed=0, epoch=epoch):
        train_step(noisy, optimizer, augment(x), y)
    val.append(evaluate(noisy, data.val_x, data.val_y)[0])
    weights.append(copy.deepcopy(noisy.state_dict()))

cut = int(np.argmin(val[:-2]))  # killed here: the best epoch so far


def best_file(losses, best=float("inf")):
    """Epochs at which the file is written, and the loss of the model in it afterwards."""
    writes = []
    for epoch, loss in losses:
        if loss < best:
            best = loss
            writes.append(epoch)
    return writes, best


before, kept = best_file(list(enumerate(val))[: cut + 1])
after = list(enumerate(val))[cut + 1 :]
ways = {
    "best loss restored": best_file(after, best=kept),
    "best = inf again": best_file(after),
    "best = -inf": best_file(after, best=float("-inf")),
}
fig, ax = figure(size=(8, 3.2))
ax.plot(val, label="validation loss", **HEALTHY)
ax.plot(before, [val[e] for e in before], "s", color="#0072B2", ms=7, label="file written")
lost = ways["best = inf again"][0]
ax.plot(
    lost, [val[e] for e in lost], "X", color="#D55E00", ms=10, label="overwritten after the resume"
)
ax.axvline(cut + 0.5, color="#666666", linewidth=0.8)
ax.text(cut + 0.55, 0.9 * val[0], "killed", fontsize=8.5, color="#444444")
ax.set(xlabel="epoch", ylabel="validation loss", ylim=(0.9 * min(val), 1.05 * val[0]))
ax.legend(frameon=False, loc="upper center")
show(
    fig,
    f"Validation loss of {len(val)} epochs; best {kept:.4f} in epoch {cut}, then killed. The file was "
    f"written in epochs {before}, and with best = inf again in {lost}.",
    {"epoch": range(len(val)), "validation loss": val},
)


# %%
def loss_of(state):
    model = MLP(64, 128, 128, 10, dropout=0.1)
    model.load_state_dict(state)
    return evaluate(model, data.val_x, data.val_y)[0]


model = MLP(64, 128, 128, 10, dropout=0.1)
model.load_state_dict(weights[cut])
alias, copied = model.state_dict(), copy.deepcopy(model.state_dict())
model.load_state_dict(weights[-1])  # copies in place, as optimizer.step() does: training goes on
table(
    ["", "file written in epochs", "loss of the model that is called best"],
    [(name, " ".join(map(str, writes)) or "none", loss) for name, (writes, loss) in ways.items()]
    + [
        ("best = model.state_dict()", "in memory", loss_of(alias)),
        ("best = copy.deepcopy(model.state_dict())", "in memory", loss_of(copied)),
    ],
)

# %% [markdown]
# - The first epoch after a restart beats infinity, whatever it is, and the week's best model is overwritten.
#   With a metric where higher is better, the fresh value is −inf, and the same happens. Load the wrong one
#   of the two, and no model is ever saved again. **The best metric is training state.**
# - `state_dict()` returns the model's own tensors: an alias that trains on.
#
# ### The middle of an epoch
#
# An epoch of 80 samples in batches of 5, killed after 10 of its 16 batches. Five scripts each train
# the rest of the epoch, as they understand it. How often has each sample been trained on?

# %%
LENGTH, SIZE, DONE = 80, 5, 10


def loader(**how):
    return DataLoader(range(LENGTH), batch_size=SIZE, shuffle="sampler" not in how, **how)


def flat(found):
    return [sample for batch in found for sample in batch.tolist()]


class CountsYielded(Sampler):
    """A sampler whose position is the number of samples that it has handed out."""

    def __init__(self, order, position=0):
        self.order, self.position = order, position

    def __iter__(self):
        while self.position < len(self.order):
            self.position += 1
            yield self.order[self.position - 1]


torch.manual_seed(0)
killed_process = iter(loader())
trained = flat(next(killed_process) for _ in range(DONE))
generator_now = torch.get_rng_state()  # what a checkpoint of this moment holds
order = trained + flat(killed_process)  # what would have come

rests = {}
torch.manual_seed(1)  # a new process
rests["starts the epoch over"] = flat(loader())
rests["shuffles, skips 10 batches"] = flat(list(loader())[DONE:])
torch.set_rng_state(generator_now)
rests["restores the RNG, skips 10 batches"] = flat(list(loader())[DONE:])

sampler = CountsYielded(order)
killed_process = iter(loader(sampler=sampler, num_workers=2))
flat(next(killed_process) for _ in range(DONE))
position = sampler.position
del killed_process
rests["sampler counts what it yields, 2 workers"] = flat(
    loader(sampler=CountsYielded(order, position))
)

torch.manual_seed(0)  # the state of the epoch's *start*
rests["same shuffle, skips 10 batches"] = flat(list(loader())[DONE:])

counts = {name: counted(trained + rest, LENGTH) for name, rest in rests.items()}
strips(counts, order, {name: [len(trained)] for name in counts})

# %%
table(
    ["how the script goes on", "samples trained twice", "samples never trained"],
    [(name, *repeated_and_never(count)) for name, count in counts.items()],
)

# %%
print(f"{len(trained)} samples trained; the sampler that counts what it yields says {position}.")

# %% [markdown]
# - A shuffle is drawn when `iter(loader)` is called. Restoring the generator *as it was in mid-epoch* and
#   calling `iter` again draws the next shuffle: the batches skipped are other ones than those trained
#   ([accelerate #2823](https://github.com/huggingface/accelerate/issues/2823)).
# - Two workers have fetched four batches that nobody has trained on. Whoever counts in the sampler loses them.
# - The last row is right: the order of the epoch's start, then the skip. It reads and throws away
#   everything it skips. An order that is a *function* of seed and epoch needs neither.
#
# **Another number of ranks.** The same 80 samples on 4 ranks, 2 batches of 5 on each; then two machines are gone.


# %%
def share(ranks, rank):
    """What DistributedSampler gives a rank in epoch 3."""
    sampler = DistributedSampler(range(LENGTH), num_replicas=ranks, rank=rank, seed=0)
    sampler.set_epoch(3)
    return list(sampler)


def go_on(ranks, skip):
    """Every rank skips this many of its samples, and trains the rest."""
    return [sample for rank in range(ranks) for sample in share(ranks, rank)[skip:]]


BATCHES = 2
by_rank = [share(4, rank)[: BATCHES * SIZE] for rank in range(4)]
trained_by_4 = [sample for turn in zip(*by_rank, strict=True) for sample in turn]
done = len(trained_by_4)
rest = [sample for sample in share(1, 0) if sample not in trained_by_4]
worlds = {
    f"2 ranks, each skips its {BATCHES} batches": go_on(2, BATCHES * SIZE),
    f"2 ranks, {done} samples done in all": go_on(2, done // 2),
    f"3 ranks, {done} samples done in all": rest + rest[: -len(rest) % 3],
}
world_counts = {name: counted(trained_by_4 + more, LENGTH) for name, more in worlds.items()}
strips(world_counts, share(1, 0), {name: [done] for name in world_counts})

# %% [markdown]
# Batches per rank mean something else on another number of ranks; *samples over all ranks* mean the same.
# With three ranks, the last batch is padded so that no rank waits: those few repeats are its price.

# %% [markdown]
# ## 5. Explain
#
# What every checkpoint says is: **all that is before me is done, and nothing that is after me.** Four
# scripts at an epoch's end:

# %%
TIMELINES = {
    "right": [("epoch 4", 4), ("step", 1), ("save", 1), None, ("epoch 5 at epoch 5's rate", 5)],
    "saves before the step": [
        ("epoch 4", 4),
        ("save", 1),
        ("step", 1),
        None,
        ("epoch 5 at epoch 4's rate", 5),
    ],
    "starts at epoch": [
        ("epoch 4", 4),
        ("step", 1),
        ("save", 1),
        None,
        ("epoch 4 at epoch 5's rate", 5),
    ],
    "mid-epoch": [
        ("epoch 5, batches 0 to 9", 5),
        ("save", 1),
        None,
        ("epoch 5, batches 10 to 15", 5),
    ],
}
LOOK = {
    "save": {"facecolor": "#E69F00", "hatch": ""},
    "step": {"facecolor": "white", "hatch": "...", "edgecolor": "#0072B2"},
    "wrong": {"facecolor": "white", "hatch": "///", "edgecolor": "#D55E00"},
    "epoch": {"facecolor": "#CFE6F3", "hatch": ""},
}
fig, ax = figure(size=(9.5, 3.2))
for row, (name, events) in enumerate(TIMELINES.items()):
    left = 0.0
    for number, event in enumerate(events):
        if event is None:
            ax.text(left + 0.3, row, "✗", va="center", ha="center", fontsize=16)
            left += 0.6
            continue
        text, width = event
        wrong = number > 3 and name in ("saves before the step", "starts at epoch")
        look = LOOK["wrong"] if wrong else LOOK[text if text in LOOK else "epoch"]
        ax.barh(
            row, width, left=left, height=0.66, **{"edgecolor": "black", "linewidth": 0.8, **look}
        )
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(left + width / 2, row, text, va="center", ha="center", fontsize=8.5, bbox=box)
        left += width
ax.set(ylim=(len(TIMELINES) - 0.5, -0.6), xlim=(0, 11.8), xticks=[], yticks=range(len(TIMELINES)))
ax.set_yticklabels(list(TIMELINES))
ax.set_xlabel("time; ✗ killed, and started again from the save")
ax.grid(False)
ax.spines[["left", "bottom"]].set_visible(False)
told = [
    (name, " → ".join("kill" if event is None else event[0] for event in events))
    for name, events in TIMELINES.items()
]
show(
    fig,
    "Four timelines. " + ". ".join(f"{name}: {events}" for name, events in told) + ".",
    {"script": [name for name, _ in told], "what happens": [events for _, events in told]},
)

# %% [markdown]
# - **`epoch` is the last completed one**, so the next is `epoch + 1`. In mid-epoch too: that epoch is not
#   completed, and the sampler knows how much of it is done.
# - **At an epoch's end: schedule, counters, checkpoint, in this order.** A state that is saved between two of
#   them was never true: an epoch whose rate had not moved, or a rate without its epoch.
# - **After every step:** optimizer, per-step schedule, `advance`, `end_batch`, checkpoint.
# - **Every number that decides something is training state**: the best loss, the counters, the
#   position, the seed of the order.
#
# ### The root cause, in your words
#
# Take the three tickets of section 1, and a crash in mid-epoch as the fourth. For each: what did the checkpoint
# say that was not true, or not say at all? One sentence each.

# %% [markdown] nbgrader={"grade_id": "off_by_one-cause"}
# ### BEGIN SOLUTION
# **Sample answer.** *11 epochs:* the file said rightly that epoch 4 was completed, and the script read it as the
# epoch to run; it trained it a second time, with the schedule already one ahead. *Late schedule:* the file was
# written between the epoch and `scheduler.step()`, so it paired a completed epoch with a schedule that did not
# know of it, and each kill adds one. *Lost best model:* the best loss was not in the file; after the restart it was
# infinite, and the first model beat it. *Mid-epoch:* the file did not say which samples were done: the order
# came from a generator that had moved on (or the position counted what was yielded, or per rank), so the batches
# skipped were not those trained.
#
# **Rubric.** 1 point: completed against next (epoch + 1). 1 point: a state saved before `scheduler.step()` is of no moment
# of the run, and the lag accumulates. 1 point: the best metric (or any deciding number) is state. 1 point: order
# and position: the shuffle must be repeatable, and the position counts trained samples over all ranks.
# ### END SOLUTION

# %% [markdown]
# ## 6. Implement
#
# In `savepoint/resume.py`; the docstrings are the contract, and its first lines are the script around it.
#
# 1. `Progress`: the counters and the best loss, with their state.
# 2. `ResumableSampler`: an order that is a function of (seed, epoch), a position that counts what was
#    trained. *Further:* another number of ranks.
# 3. `resume`: the one line at the top. Everything is restored, or there is no file; never anything in between.

# %%
tasks("off_by_one")

# %% [markdown]
# Stuck? `hint("off_by_one.goes_on")`, and again for the next of three.
#
# ## 7. Check
#
# One line a check. `any_step` runs four scripts with your package, kills each with SIGKILL (after the first step,
# after the last, at an epoch's end, anywhere), starts it again, and compares the weights with a run that
# was never killed.

# %% nbgrader={"grade_id": "off_by_one-counters"}
check("off_by_one.counters")

# %% nbgrader={"grade_id": "off_by_one-best"}
check("off_by_one.best")

# %% nbgrader={"grade_id": "off_by_one-survives"}
check("off_by_one.survives")

# %% nbgrader={"grade_id": "off_by_one-order"}
check("off_by_one.order")

# %% nbgrader={"grade_id": "off_by_one-goes_on"}
check("off_by_one.goes_on")

# %% nbgrader={"grade_id": "off_by_one-prefetch"}
check("off_by_one.prefetch")

# %% nbgrader={"grade_id": "off_by_one-ranks"}
check("off_by_one.ranks")

# %% nbgrader={"grade_id": "off_by_one-fresh_start"}
check("off_by_one.fresh_start")

# %% nbgrader={"grade_id": "off_by_one-damaged"}
check("off_by_one.damaged")

# %% nbgrader={"grade_id": "off_by_one-any_step"}
check("off_by_one.any_step")

# %% nbgrader={"grade_id": "off_by_one-group"}
check("off_by_one.group")

# %% [markdown]
# The next cell is empty here: what it holds is run when the notebook is graded. It asks for what
# `resume`'s docstring promises too (`course check 04` runs it too).

# %% nbgrader={"grade_id": "off_by_one-fine_print"}
### BEGIN HIDDEN TESTS
check("off_by_one.fine_print")
### END HIDDEN TESTS

# %% [markdown]
# Further, for no points:

# %% nbgrader={"grade_id": "off_by_one-other_world_size"}
check("off_by_one.other_world_size")

# %% [markdown]
# ## 8. Replay
#
# Section 3's run with *your* package, which saves after every step. Killed six times: after the first step, in the middle
# of three epochs, after an epoch's last batch, and before the very last step.

# %%
STEPS = -(-len(data.train_x) // 50)  # in an epoch; here its last, smaller batch is trained too
KILLS = [1, 2 * STEPS + 9, 4 * STEPS + 20, 5 * STEPS, 7 * STEPS + 1, EPOCHS * STEPS - 1]
replayed = replay("off_by_one_replay.schedule", epochs=EPOCHS, kills=KILLS)
if replayed:
    yours = {
        name: [(e, lr) for e, lrs in zip(run["epochs"], run["lr"], strict=True) for lr in lrs]
        for name, run in replayed.items()
    }
    compared = {
        "never killed": curves["never killed"],
        "killed 6 times, resumed by savepoint": yours["killed"],
    }
epochs_done = [kill / STEPS for kill in KILLS]
rate_figure(compared, epochs_done, (HEALTHY, YOURS)) if replayed else None

# %%
table(
    ["run with your package", "optimizer steps", "epochs", "SHA-256 of the weights (start)"],
    [
        (name, run["steps"], len(run["epochs"]), run["fingerprint"][:16])
        for name, run in replayed.items()
    ]
    if replayed
    else [("not yet: section 6 comes first", "–", "–", "–")],
)

# %%
passes = replay("off_by_one_replay.samples", length=LENGTH)
if passes:
    passes = passes["passes"]
    places, cuts = {}, {}  # each way has its own order: what was trained before the kill comes first
    for name, (*early, last) in passes.items():
        seen = [sample for part in early for sample in part]
        own = seen + [sample for sample in range(LENGTH) if sample not in set(seen)]
        found = counted(seen + last, LENGTH)
        places[name] = [found[sample] for sample in own]
        cuts[name] = np.cumsum([len(part) for part in early]).tolist()
strips(places, range(LENGTH), cuts) if passes else None

# %% [markdown]
# ## 9. Myth against measurement


# %%
def verdict(holds):
    return "holds here" if holds else "refuted"


twice, skipped = counts["starts the epoch over"], counts["restores the RNG, skips 10 batches"]
epochs_run = len(runs["killed once, starts at epoch"][1])
by_three = len(runs["killed 3 times, starts at epoch"][1])
spread = max(np.std(values) for values in loss.values())
apart = max(abs(np.mean(values) - np.mean(loss["never killed"])) for values in loss.values())
table(
    ["belief", "measured", "verdict"],
    [
        (
            "“Start from the checkpoint's epoch.”",
            f"{epochs_run} epochs instead of {EPOCHS}, {by_three} after three kills",
            verdict(epochs_run == EPOCHS),
        ),
        (
            "“Checkpoint, then scheduler.step().”",
            f"{EPOCHS - 1 - at} epochs late after three kills",
            verdict(at == EPOCHS - 1),
        ),
        (
            "“I would see it in the loss.”",
            f"means differ by {apart:.3f} at most; one run's seeds spread by ± {spread:.3f}",
            verdict(apart > 2 * spread),
        ),
        (
            "“The RNG is restored and the batches are skipped: exact.”",
            "{} samples trained twice, {} never".format(*repeated_and_never(skipped)),
            verdict(repeated_and_never(skipped) == (0, 0)),
        ),
        (
            "“The sampler knows where the run is.”",
            f"{len(trained)} trained, {position} yielded",
            verdict(position == len(trained)),
        ),
    ],
)

# %% [markdown]
# ## 10. Take home
#
# **For your checklist:** a run killed after any step, mid-epoch too, resumes with one call: no epoch twice, no
# sample twice or never, schedule and best loss where they were.
#
# How others resume, in a small run with dropout, AdamW and shuffling: final weights against the uninterrupted run's,
# by hash. Measured by the course's authors (torch 2.13.0 on a CPU; lightning 2.6.6, accelerate 1.15.0, transformers
# 5.23.0, torchdata 0.11.0, ignite 0.5.5). To measure again, in a checkout of the course's repository:
# `pip install ".[peers]"`, then `python tests/peers_resume.py`; the course itself needs none of them.
#
# | | at an epoch boundary | mid-epoch (after 25 of 40 steps) |
# |---|---|---|
# | HF Trainer | identical | identical |
# | Accelerate, default | identical | no: 38 of 160 samples trained twice, 38 never |
# | Accelerate, seedable sampler | identical | batches right, weights differ (RNG restored too early) |
# | Lightning, default | **no** (saves no RNG) | **no**: 37 twice, 37 never |
# | Lightning + torchdata's StatefulDataLoader | **no** | data right, weights differ |
# | Ignite, `Engine` | **no** | **no**: 37 twice, 37 never |
# | Ignite, `DeterministicEngine` | identical | with 2 workers identical; with 0 no: 35 twice, 35 never |
# | StatefulDataLoader with a generator, 0 workers | **the next epoch's order is another** | rest of the epoch right, the next wrong |
# | plain loop, everything restored, global RNG | identical | **no**: 38 twice, 38 never |
# | plain loop, loader with its own generator (yours) | identical | identical |
#
# `savepoint/resume.py` needs `checkpoint.py` beside it (and `distributed.py` in a process group). The test for your
# repository: kill a short run after a random step, resume, compare hashes. A hundred times, overnight.
