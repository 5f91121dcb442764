# %% [markdown]
# # Four writers, one file
#
# After this notebook you can
# - say why several ranks must never write one path, and when it goes unnoticed;
# - write a file so that a kill at any instant leaves the old one or the new one, whole;
# - save and load from a process group so that all ranks learn how it went, and each gets back its own
#   random numbers.
#
# **Before you start:** notebook 01. What `DistributedDataParallel` does; no GPU is needed.

# %%
import io
import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from workbench import MLP, fingerprint
from workbench.figures import BROKEN, YOURS, figure, show, table
from workbench.launch import torchrun

from grader import card, check, replay, tasks

torch.set_num_threads(1)
scratch = TemporaryDirectory()
folder = Path(scratch.name)
card("ddp_race")

# %% [markdown]
# ## 1. Incident report
#
# | | |
# |---|---|
# | **Symptom** | A four-GPU job restarts and cannot read its newest checkpoint: *archive is corrupted*. The one before loads, and behaves oddly. |
# | **Timeline** | It trained and saved for weeks on one GPU. Moved to four with `torchrun --nproc-per-node 4`; the saving code stayed as it was. Every save reported success. |
# | **Impact** | Found at the restart. Two of the last five files could be read, and nobody knew which of them to trust. |
# | **Not the cause** | Disk, network and filesystem are healthy. Nothing was killed while it saved. |
#
# The report is put together from several cases. These are real: in NVIDIA's own ImageNet example the file came back with *storage has wrong size: expected
# 4249925191133211469 got 65536* ([apex #886](https://github.com/NVIDIA/apex/issues/886)); the Hugging
# Face Trainer raced on a rename ([transformers #28015](https://github.com/huggingface/transformers/issues/28015)).
# Read the first posts only.

# %% [markdown]
# ## 2. Predict
#
# Two ranks call `torch.save` on one path, at the same time, 20 times over. Each saves the same model, and
# its own loss history. Then both histories are given the *same length*, with different numbers in them.
# How many of the 20 files can then not be read?
#
# - **a** about as many as before
# - **b** none, and each is one rank's file
# - **c** none, but some hold one rank's part and another rank's part
# - **d** all of them
#
# Write your letter as text. You get the point for committing, not for being right.

# %% nbgrader={"grade_id": "ddp_race-prediction-answer"}
### BEGIN SOLUTION
prediction = "c"
### END SOLUTION

# %% nbgrader={"grade_id": "ddp_race-prediction"}
check("ddp_race.prediction", prediction)

# %% [markdown]
# ## 3. Reproduce
#
# Real processes, started by `torchrun`, talking gloo. The script is `workbench/race.py`: each experiment
# is one short function. `race` is this, 20 times:
#
# ```python
# dist.barrier()
# torch.save(content, path)    # on every rank: 15.9 MB, and a loss history of this rank's length
# dist.barrier()
# torch.load(path)             # on rank 0: what became of it?
# ```


# %%
def measure(nproc, *experiments):
    """Run experiments of workbench/race.py on this many ranks; what they measured."""
    out = folder / f"on-{nproc}.json"
    run = torchrun("-m", "workbench.race", str(out), *experiments, nproc=nproc)
    if run.returncode != 0:
        raise RuntimeError(f"torchrun {run.how}:\n{run.output[-2000:]}")
    return json.loads(out.read_text())


two = measure(2, "race", "equal", "early", "swallowed", "masks", "names")
four = measure(4, "race", "nodes")
races = {
    "2 ranks, all write": two["race"],
    "4 ranks, all write": four["race"],
    "4 ranks on 2 nodes, local rank 0 writes": four["nodes"],
    "2 ranks, all write, equal lengths": two["equal"],
}
table(
    ["of 20 saves", "files", "what became of them"],
    [
        (name, count, outcome)
        for name, race in races.items()
        for outcome, count in sorted(race["outcomes"].items(), key=lambda item: -item[1])
    ],
)

# %% [markdown]
# A race has no fixed result: run the cell again, and the counts move. Three things stay.
#
# - `torch.save` raised nothing, on any rank, in any of these saves.
# - `if local_rank == 0` is no cure: with two nodes there are two ranks with that number.
# - With equal lengths nothing is unreadable. That is the honest control, and the trap: the same bug, passing
#   every test on a model whose ranks happen to save the same number of bytes.

# %%
unreadable = {
    name: sum(n for outcome, n in race["outcomes"].items() if outcome.startswith("does not load"))
    for name, race in races.items()
}
mixed = {name: race["outcomes"].get("loads: ranks mixed", 0) for name, race in races.items()}
equal = "2 ranks, all write, equal lengths"
print(
    f"Unreadable: {unreadable['2 ranks, all write']} of 20, with equal lengths {unreadable[equal]}."
)
print(
    f"With equal lengths, {mixed[equal]} of 20 load with one rank's history and the other's tensors."
)
print(f"You said {prediction}.")

# %% [markdown]
# ## 4. Measure
#
# Each rank noted when it wrote each record of the file, in the first of those saves that went wrong. Section 8
# has this figure again.


# %%
def timeline_figure(timeline, label, style):
    """Who wrote to the file when; ``timeline`` holds (begin, end, bytes) spans for each rank."""
    start = min(span[0] for spans in timeline for span in spans)
    end = max(span[1] for spans in timeline for span in spans)
    fig, ax = figure(size=(8, 1.2 + 0.6 * len(timeline)))
    for rank, spans in enumerate(timeline):
        bars = [((b - start) * 1e3, max((e - b) * 1e3, 0.05)) for b, e, _ in spans]
        ax.broken_barh(
            bars, (rank - 0.35, 0.7), facecolors=style["color"], edgecolor="white", linewidth=0.4
        )
        if not spans:
            ax.text(0.2, rank, "writes nothing", va="center")
    ax.set(
        xlabel="milliseconds since the first byte",
        xlim=(0, (end - start) * 1.05e3),
        ylim=(len(timeline) - 0.4, -0.6),
    )
    ax.set_yticks(range(len(timeline)), [f"rank {rank}" for rank in range(len(timeline))])
    ax.set_title(label, loc="left", fontsize=10)
    sizes = [sum(span[2] for span in spans) for spans in timeline]
    spans_ms = [
        (1e3 * (spans[0][0] - start), 1e3 * (spans[-1][1] - start)) if spans else ("–", "–")
        for spans in timeline
    ]
    writers = sum(map(bool, timeline))
    return show(
        fig,
        f"{label}: one row for each of {len(timeline)} ranks, a bar for each record that it writes into "
        f"the file. {writers} of {len(timeline)} ranks write"
        + (", and their bars overlap in time." if writers > 1 else "; the others' rows are empty."),
        {
            "rank": range(len(timeline)),
            "records": [len(spans) for spans in timeline],
            "bytes": sizes,
            "first byte (ms)": [first for first, _ in spans_ms],
            "last byte (ms)": [last for _, last in spans_ms],
        },
    )


timeline_figure(two["race"]["timeline"], f"2 ranks, one path: {two['race']['of']}", BROKEN)

# %% [markdown]
# Each `torch.save` opens the path, cuts it to nothing, and writes from its own position, as if it were
# alone. The numbers under the figure show two byte counts: the histories differ, so every record of one rank
# lies a little beside the other's. Where the records lie is written last, in the zip archive's directory. The
# last writer's directory describes a file that the other one has overwritten. With equal lengths all records
# coincide, and the directory fits whichever bytes came last.
#
# ### One writer, and nobody waits
#
# So rank 0 alone writes. In the next experiment rank 1 opens the file without waiting, as a rank does that
# validates or resumes. Half of the time there is a checkpoint of the epoch before; half of the time rank 0 is
# busy and begins to write a little later.

# %%
table(["what rank 1 got, 20 reads", "times"], sorted(two["early"].items()))

# %% [markdown]
# The reader that came too early finds nothing, half a file, or last epoch's file, which loads without
# complaint. A barrier belongs *after* the write, before anyone may read.
#
# ### One writer, a barrier, and an error
#
# Rank 0 cannot write (its directory does not exist), logs that and goes on. Rank 1 stands at the barrier. Its
# time limit is 2 s here; torch's default is 30 minutes (10 with NCCL). Below, the same with the error sent to all.

# %%
table(
    ["rank 0's error is", "rank 0 saw", "rank 1 saw", "rank 1 waited (s)"],
    [
        (name, first["saw"], second["saw"], f"{second['seconds']:.2f}")
        for name, (first, second) in two["swallowed"].items()
    ],
)

# %% [markdown]
# A barrier says *when*. Somebody has to say *how it went*: the collective that ends a save carries the error,
# and whoever learns of one raises. (Uncaught, rank 0's error would have ended its process, and torchrun
# the others. Swallowing it is what hangs.)
#
# ### One checkpoint, one random state?
#
# Two ranks, 20,000 dropout decisions each. Saved, then restored in two ways:

# %%
table(
    ["generators", "decisions on which both ranks agree", "first 32 on rank 0", "on rank 1"],
    [
        (name, f"{fact['agree']:.3f}", *fact["first 32 of each"])
        for name, fact in two["masks"].items()
    ],
)

# %% [markdown]
# With rank 0's state everywhere, both ranks drop the same units and draw the same augmentation: half of the
# noise that training was meant to have. No error and no jump in the loss. With each rank's own state the masks are
# the uninterrupted run's.
#
# ### `module.`
#
# DDP is a module around yours, so every name in its `state_dict()` starts with `module.`. This file was saved from
# the wrapped model. Loaded into a bare one, with the `strict=False` that "handles" it:

# %%
wrapped = torch.load(folder / "wrapped.pt")
model = MLP()
before = fingerprint(model)
report = model.load_state_dict(wrapped, strict=False)
changed = fingerprint(model) != before
print(
    f"Missing: {len(report.missing_keys)} of {len(model.state_dict())} names, unexpected: {len(report.unexpected_keys)}."
)
print(f"Weights changed: {'yes' if changed else 'no'}. Errors: none.")

# %%
examples = [
    "module.embed.weight",
    "module.output.bias",
    "module.sub_module.weight",
    "sub_module.weight",
]
table(
    ["name", '.lstrip("module.")', '.replace("module.", "")', '.removeprefix("module.")'],
    [
        (n, n.lstrip("module."), n.replace("module.", ""), n.removeprefix("module."))
        for n in examples
    ],
)

# %% [markdown]
# `lstrip` strips letters, `replace` strips anywhere. Better than any surgery: save the state dict of the module
# inside, and nothing has to be cut.
#
# ### What the loader notices
#
# One more thing about files, with one process. A sound checkpoint, cut short as by a kill in the middle of a write,
# or with one bit flipped in its largest tensor:

# %%
torch.manual_seed(0)
weights = {"step": 7, "weights": torch.randn(50_000)}
sound = io.BytesIO()
torch.save(weights, sound)
sound = sound.getvalue()
flipped = bytearray(sound)
flipped[len(sound) // 2] ^= 0x40


def told(content):
    """(what torch.load makes of these bytes, what zipfile's checksums say)."""
    try:
        loaded = torch.load(io.BytesIO(content))
        off = int((loaded["weights"] != weights["weights"]).sum())
        torch_says = f"loads; {off} numbers are others"
    except Exception as error:
        torch_says = f"raises {type(error).__name__}"
    try:
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
        zip_says = "sound" if damaged is None else f"{damaged} is damaged"
    except zipfile.BadZipFile:
        zip_says = "not a zip file"
    return torch_says, zip_says


cases = {
    "whole": sound,
    "its first tenth": sound[: len(sound) // 10],
    "all but the last byte": sound[:-1],
    "one bit flipped": bytes(flipped),
    "empty": b"",
}
table(["file", "torch.load", "zipfile's testzip()"], [(n, *told(c)) for n, c in cases.items()])

# %% [markdown]
# `torch.save` stores a checksum for every record; `torch.load` compares none. Whoever wants to know asks `zipfile`.
#
# ## 5. Explain
#
# Where each wait belongs, and what it carries:

# %%
STEPS = [
    ("all", "every rank's RNG state goes to rank 0", "collective"),
    ("rank 0", "writes beside the target, flushes, fsyncs", "alone"),
    ("rank 0", "os.replace: the old file or the new one, at every instant", "alone"),
    ("all", "rank 0's outcome goes to every rank: done, or the error's text", "collective"),
    ("all", "return, or raise: the same on every rank", "alone"),
]
fig, ax = figure(size=(8, 3.0))
for row, (who, what, kind) in enumerate(STEPS):
    together = kind == "collective"
    look = (
        {"facecolor": "#CFE6F3", "edgecolor": "#0072B2"}
        if together
        else {"facecolor": "white", "edgecolor": "#666666"}
    )
    ax.barh(row, 1.6 if who == "all" else 0.8, height=0.7, hatch="///" if together else "", **look)
    ax.text(1.75, row, f"{who}: {what}", va="center")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    word = "together" if together else "alone"
    ax.text(0.8 if who == "all" else 0.4, row, word, va="center", ha="center", fontsize=8, bbox=box)
ax.set(xlim=(0, 9), ylim=(len(STEPS) - 0.4, -0.6), xticks=[], yticks=[])
ax.spines[["left", "bottom"]].set_visible(False)
ax.grid(False)
show(
    fig,
    "Five steps of a save from a process group, top to bottom. "
    + "; ".join(f"{who}: {what}" for who, what, _ in STEPS)
    + ". The first and the fourth are collectives, hatched: every rank takes part in both.",
    {
        "who": [s[0] for s in STEPS],
        "step": [s[1] for s in STEPS],
        "collective": [s[2] == "collective" for s in STEPS],
    },
)

# %% [markdown]
# - **A collective is a call that all make.** One inside `if rank == 0` waits for ever, or pairs with the next one of
#   another kind.
# - **One *global* writer.** `dist.get_rank() == 0`, never `LOCAL_RANK`. The disk is shared by all nodes; where it is not,
#   ranks see different directories, so whether a file is there must be decided once, for all.
# - **Written is not in place.** Beside the target, then `os.replace`, on one filesystem. At every instant of it the path
#   holds a whole file.
# - **All ranks load**, each onto its own device (`map_location`; without it every rank's tensors go where rank 0 saved
#   them from: [pytorch #23138](https://github.com/pytorch/pytorch/issues/23138)), and each its own random state.
#   `sampler.set_epoch(epoch)` is part of a resume too: the order of the data follows from it (notebook 04).
#
# ### The root cause, in your words
#
# Why could some of the files of section 3 not be read, and why could all be read when the lengths were equal? And why is
# "only rank 0 saves" not yet a cure? Three or four sentences.

# %% [markdown] nbgrader={"grade_id": "ddp_race-cause"}
# ### BEGIN SOLUTION
# **Sample answer.** Every rank opened the same path, truncated it and wrote at its own offsets; their writes interleaved. With
# different lengths the records of one lie beside the other's, so the directory that was written last points at bytes that
# belong to the other: unreadable. With equal lengths the offsets coincide, so the file opens, with some records from one
# rank and some from another. One global writer removes the race, but not the rest: the others must wait until the file is
# there (a barrier after the write), must hear of an error (or they wait, or train on without a checkpoint), and need their
# own generators back.
#
# **Rubric.** 1 point: several processes write one file, interleaved, each at its own offsets. 1 point: why equal lengths hide it, and
# that ranks are then mixed. 1 point: readers must wait for the write. 1 point: the error must reach all ranks, or one RNG
# state per rank.
# ### END SOLUTION

# %% [markdown]
# ## 6. Implement
#
# In `savepoint/files.py` and `savepoint/distributed.py`; the docstrings are the contract.
#
# 1. `atomic_save`: write beside the target, then replace it in one step. *Further:* `verify_file`.
# 2. `save_checkpoint_ddp`: one writer, every rank's generators, one outcome for all. *Further:* `strip_prefix`.
# 3. `load_checkpoint_ddp`: decide together, restore everywhere, each rank its own random state.
#
# `unwrap` is there already. Both `_ddp` functions also work without a process group.

# %%
tasks("ddp_race")

# %% [markdown]
# Stuck? `hint("ddp_race.old_or_new")`, and again for the next of three.
#
# ## 7. Check
#
# These checks fork ranks of their own, and kill some. `course check 03 --torchrun`, in a terminal, starts the
# same ranks with `torchrun` (some minutes).

# %% nbgrader={"grade_id": "ddp_race-old_or_new"}
check("ddp_race.old_or_new")

# %% nbgrader={"grade_id": "ddp_race-after_an_error"}
check("ddp_race.after_an_error")

# %% nbgrader={"grade_id": "ddp_race-good_neighbour"}
check("ddp_race.good_neighbour")

# %% nbgrader={"grade_id": "ddp_race-one_writer"}
check("ddp_race.one_writer")

# %% nbgrader={"grade_id": "ddp_race-failing_writer"}
check("ddp_race.failing_writer")

# %% nbgrader={"grade_id": "ddp_race-in_all_else"}
check("ddp_race.in_all_else")

# %% nbgrader={"grade_id": "ddp_race-same_bits"}
check("ddp_race.same_bits")

# %% nbgrader={"grade_id": "ddp_race-one_answer"}
check("ddp_race.one_answer")

# %% nbgrader={"grade_id": "ddp_race-other_world_size"}
check("ddp_race.other_world_size")

# %% [markdown]
# The next cell is empty here: what it holds is run when the notebook is graded. It asks for what
# `load_checkpoint_ddp`'s docstring promises too (`course check 03` runs it too).

# %% nbgrader={"grade_id": "ddp_race-fine_print"}
### BEGIN HIDDEN TESTS
check("ddp_race.fine_print")
### END HIDDEN TESTS

# %% [markdown]
# Further, for no points:

# %% nbgrader={"grade_id": "ddp_race-damage"}
check("ddp_race.damage")

# %% nbgrader={"grade_id": "ddp_race-prefix"}
check("ddp_race.prefix")

# %% [markdown]
# ## 8. Replay
#
# Section 3's race once more: every rank calls, 20 times, on one path, with histories of different lengths. Now each
# calls *your* `save_checkpoint_ddp`, and each opens the file as soon as its own call has returned.

# %%
yours = {n: replay("ddp_race_replay.race", ranks=n, saves=20) for n in (2, 4)}
timeline_figure(yours[2]["timeline"], "2 ranks, one path, savepoint", YOURS) if yours[2] else None

# %%
table(
    [
        "",
        "section 3: unreadable or mixed, of 20",
        "with savepoint: reads",
        "of these rank 0's file, whole",
    ],
    [
        (
            f"{n} ranks",
            20 - races[f"{n} ranks, all write"]["outcomes"].get("loads: one rank's file", 0),
            sum(yours[n]["outcomes"].values()),
            yours[n]["outcomes"].get("loads: rank 0's file", 0),
        )
        for n in (2, 4)
        if yours[n]
    ]
    or [("–", "–", "not yet: section 6 comes first", "–")],
)

# %% [markdown]
# ### Bit for bit on several ranks
#
# Ranks in DDP train 6 steps, save, train 6 more. Then all is built anew, loaded, and trains the same 6 steps.

# %%
CASES = {
    "2 ranks": (2, ""),
    "3 ranks": (3, ""),
    "3 ranks, find_unused_parameters=True": (3, "unused"),
    "3 ranks, two throwaway passes before the load": (3, "warm"),
}
resumed = {
    name: replay("ddp_race_replay.resume", ranks=n, cure=c) for name, (n, c) in CASES.items()
}
table(
    ["", "uninterrupted", "resumed", "same bits", "largest difference of a weight"],
    [
        (
            name,
            fact["uninterrupted"][:12],
            fact["resumed"][:12],
            fact["uninterrupted"] == fact["resumed"],
            fact["largest difference"],
        )
        for name, fact in resumed.items()
        if fact
    ]
    or [("–", "–", "not yet", "–", "–")],
)

# %% [markdown]
# Everything is restored in all four rows. Two gradients can be added in one order only. Three have several orders, and DDP
# chooses: it sums gradients in *buckets*. In the first step their layout is a guess; then DDP rebuilds them in the order in
# which gradients really arrived
# ([reducer.hpp](https://github.com/pytorch/pytorch/blob/v2.6.0/torch/csrc/distributed/c10d/reducer.hpp), `rebuild_buckets`).
# A resumed run has a first step again, with the guess. The sums round differently, and that is enough.
#
# Two cures: `find_unused_parameters=True` keeps the first layout for good, and costs a walk through the graph each step. Or
# two passes before the load get the rebuilding over with.
#
# ## 9. Myth against measurement

# %%
bad = {
    n: 20 - races[f"{n} ranks, all write"]["outcomes"].get("loads: one rank's file", 0)
    for n in (2, 4)
}
early = two["early"]
masks = two["masks"]
everywhere = masks["rank 0's restored everywhere"]["agree"]


def verdict(holds):
    return "holds here" if holds else "refuted"


table(
    ["belief", "measured", "verdict"],
    [
        (
            "“Concurrent saves always corrupt.”",
            f"unreadable: {unreadable['2 ranks, all write']} of 20; with equal lengths {unreadable[equal]} of 20",
            verdict(unreadable[equal] == 20),
        ),
        (
            "“It loads, so it is right.”",
            f"{mixed[equal]} of 20 loaded with ranks mixed",
            verdict(sum(mixed.values()) == 0),
        ),
        (
            "“Rank 0 saves, that's all.”",
            f"without a barrier {early.get('read the new file', 0)} of {sum(early.values())} reads got the new file",
            verdict(early.get("read the new file", 0) == sum(early.values())),
        ),
        (
            "“A failing rank 0 takes the others down.”",
            f"swallowed: rank 1 waited {two['swallowed']['swallowed'][1]['seconds']:.1f} s, its whole limit",
            verdict(two["swallowed"]["swallowed"][1]["seconds"] < 1),
        ),
        (
            "“One checkpoint, one RNG state.”",
            f"masks agree: {everywhere:.3f}; own states {masks['each its own restored']['agree']:.3f}",
            verdict(masks["never interrupted"]["agree"] == 1.0),
        ),
    ],
)

# %% [markdown]
# ## 10. Take home
#
# **For your checklist:** one global rank writes, beside the file and then over it; all ranks learn how it went, and each has
# its own RNG state in the file. A test makes the writer fail.
#
# How others behave (read in their code by the course's authors):
#
# | | one file? | atomic? | random state |
# |---|---|---|---|
# | HF Trainer (transformers 5.23.0) | a directory; rank 0 writes the model | no | a file per rank |
# | Accelerate 1.15.0 | a directory | no | per rank; a failed restore is logged at INFO only |
# | Lightning 2.6.6 | rank 0 | only when `TMPDIR` is on the same filesystem; no fsync | none |
# | DCP (`torch.distributed.checkpoint`) | a file per rank and one of metadata | its metadata; re-using a directory can lose both | what you put in |
#
# Very large models are sharded, and then every rank writes a file of *its own*: that is DCP, and notebook 07 measures it. The
# rules stay: no two writers for one path, and one outcome for all.
