# %% [markdown]
# # The lab: your package under torchrun
#
# After this notebook you can
# - start, kill, restart and shrink a training run on several ranks, and say what is exact afterwards;
# - measure how long your training stands still for a checkpoint, and what deterministic kernels cost;
# - begin your own trainer from `lab/train.py`.
#
# **Before you start:** notebooks 01, 03 and 04; of 02 `set_seed` (`course start --solved 02` fills it in).

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from workbench.figures import BROKEN, HEALTHY, YOURS, figure, show, table
from workbench.lab import Lab

from grader import card, check, paths

scratch = TemporaryDirectory()
scripts = next(p for p in (Path("lab"), Path("../notebooks/lab")) if p.exists())
lab = Lab(scripts.resolve(), paths.package_root(), Path(scratch.name), torch.cuda.device_count())
card("ddp_lab")

# %% [markdown]
# ## 1. The situation
#
# Your team has four nodes of a shared cluster. A job there is killed about once a day: a node fails, or is taken
# back with a SIGTERM and half a minute. Sometimes four nodes come back, sometimes two. Before the long run starts,
# you are asked: *what do we lose each time, and how do you know?*
#
# The script is `lab/train.py`, 200 lines: DDP, your `resume` at its top, your `save_checkpoint_ddp` in its loop, and a
# SIGTERM handler. Open it beside this notebook. It is yours to take home; only network and data are the course's.
# `--rehearse KILL 1 40` sends `kill -9` to rank 1 after step 40.

# %%
table(
    ["here", ""],
    [
        ("GPUs", lab.gpus),
        *((f"{n} rank{'s' * (n > 1)}", lab.told(n).partition(", ")[2]) for n in (1, 2, 3, 4)),
        ("torch", torch.__version__),
    ],
)

# %% [markdown]
# Every rank gets a GPU and NCCL where there is one for each of them; otherwise all take the CPU and gloo. The table says which
# number of ranks runs on what here, and each result below repeats it. A station that ran on gloo says nothing about NCCL.
#
# ## 2. Predict
#
# Four ranks with a global batch of 48 are killed in the middle of an epoch. Two ranks go on with the same global batch, from the
# checkpoint. Against four ranks that were never killed, what is the same at the end?
#
# - **a** the samples that the epoch was trained on, and the weights
# - **b** the samples, but not the weights
# - **c** the weights, but not the samples
# - **d** neither

# %% nbgrader={"grade_id": "ddp_lab-prediction-answer"}
### BEGIN SOLUTION
prediction = "b"
### END SOLUTION

# %% [markdown]
# ## 3. Launch
#
# What the next cell starts, you can start in a terminal, from the directory that holds `savepoint`:
#
# ```
# export PYTHONPATH=. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun --standalone --nproc-per-node 2 lab/train.py runs/peace
# ```

# %%
peace = {n: lab.train(f"peace-{n}", ranks=n) for n in lab.settings()}
table(
    ["run", "how it ended", "steps", "accuracy", "SHA-256 of the weights (start)"],
    [
        (lab.told(n), run.how, run.result["step"], run.result["accuracy"], run.weights[:16])
        for n, run in peace.items()
        if run
    ]
    or [("–", "not yet", "–", "–", "–")],
)

# %%
ours = str(paths.package_root())
used = all(ours in run.output for run in peace.values() if run)
print("The savepoint that the script imported is yours." if used else "Another savepoint was used!")

# %% [markdown]
# ## 4. Kill a rank
#
# The same with `--max-restarts 1`; the last rank is killed (SIGKILL) after step 53, in the middle of the second epoch. A checkpoint
# is written every 5 steps. The others fail at their next collective, torchrun starts *all* ranks again, and
# the script goes on from the file.
#
# That is what `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` is for. torchrun of torch 2.13 keeps one store over its restarts, and in it the
# addresses of the ranks before. A rank that starts faster than its peer finds a dead one's address there, and the restart fails with
# "Connection refused": in two of three tries on the machine that this was written on, in none of five with the variable set.

# %%
killed = {
    n: lab.train(f"killed-{n}", "--rehearse", "KILL", str(n - 1), "53", ranks=n, max_restarts=1)
    for n in lab.settings()
}
restarted = {n: run for n, run in killed.items() if run}
table(
    ["run", "start", "goes on after step", "trains to step", "weights at the end", "same bits"],
    [
        (
            lab.told(n),
            number + 1,
            start["step"],
            start["last"],
            run.weights[:16] if number else "–",
            run.weights == peace[n].weights if number else "–",
        )
        for n, run in restarted.items()
        for number, start in enumerate(run.starts)
    ]
    or [("not yet", "–", "–", "–", "–", "–")],
)

# %%
def lives_figure(run, label):
    """One bar a start: the steps that count, and those that were trained and lost."""
    fig, ax = figure(size=(8, 0.8 + 0.6 * len(run.starts)))
    rows = []
    for number, start in enumerate(run.starts):
        after = run.starts[number + 1 :]
        kept = after[0]["step"] if after else start["last"]
        rows.append((number + 1, start["ranks"], start["step"], kept, start["last"] - kept))
        ax.barh(number, kept - start["step"], left=start["step"], height=0.6, color=HEALTHY["color"])
        ax.barh(
            number,
            start["last"] - kept,
            left=kept,
            height=0.6,
            facecolor="white",
            edgecolor=BROKEN["color"],
            hatch="///",
        )
        note = f"{start['last'] - kept} lost" if start["last"] > kept else ""
        ax.text(start["last"] + 1, number, note, va="center")
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="optimizer step", title=label)
    ax.set_yticks(range(len(rows)), [f"start {n}, {ranks} ranks" for n, ranks, *_ in rows])
    told = "; ".join(
        f"start {n} on {ranks} ranks: steps {begin + 1} to {end} count, {lost} more were lost"
        for n, ranks, begin, end, lost in rows
    )
    columns = zip(*rows, strict=True)
    names = ("start", "ranks", "goes on after step", "counts up to step", "steps lost")
    return show(fig, f"{label}: a bar for each start. {told}.", dict(zip(names, columns, strict=True)))


lives_figure(killed[2], lab.told(2)) if killed[2] else None

# %% [markdown]
# What is lost is the work since the last checkpoint, and nothing else: the lost steps are trained again, with the same samples and
# the same random numbers, to the same weights.
#
# ## 5. Three ranks: a surprise, and its cure
#
# This time the cluster asks politely: SIGTERM to one rank after step 53. The ranks agree on the step after which all stop (an all-reduce
# of one number), save, and end; a second start goes on. Nothing is lost, not even a step. Against three ranks that were
# never stopped:

# %%
three = {}
for name, options in (("as it is", ()), ("--exact", ("--exact",))):
    whole = lab.train(f"three{''.join(options)}", *options, ranks=3)
    folder = f"stopped{''.join(options)}"
    stopped = lab.train(folder, *options, "--rehearse", "TERM", "1", "53", ranks=3)
    again = stopped and lab.train(folder, *options, ranks=3)
    if whole and again:
        three[name] = (whole, again)
table(
    [lab.told(3), "stopped after", "uninterrupted", "stopped and resumed", "same bits"],
    [
        (
            name,
            again.starts[0]["last"],
            whole.weights[:12],
            again.weights[:12],
            whole.weights == again.weights,
        )
        for name, (whole, again) in three.items()
    ]
    or [("not yet", "–", "–", "–", "–")],
)

# %% [markdown]
# Everything was restored in both rows: notebook 03 showed the same. DDP adds up three gradients in an order that depends on how it has
# grouped parameters into buckets. It groups them by a guess for its *first* step, and anew after it; a resumed run has a first
# step again. `--exact` is `find_unused_parameters=True`: the first grouping stays. It costs a walk through the graph at each step; whether
# you want it in production, or in the one test that compares hashes, is a decision to write down.
#
# ## 6. Four ranks become two
#
# Four ranks; the last is killed after step 53, nobody restarts them. Then two ranks, same directory, same global batch of 48.

# %%
KILL = ("--rehearse", "KILL", "3", "53")
four = lab.train("peace-4", ranks=4)
lost = lab.train("shrunk", *KILL, ranks=4, fails=True)
shrunk = lost and lab.train("shrunk", ranks=2)
lives_figure(shrunk, "4 ranks, then 2") if shrunk else None

# %%
LENGTH, EPOCH = 1797, 1  # digits; the epoch in which the kill fell


def sample_row(name, run):
    trained = run.samples(EPOCH)
    again = sum(count - 1 for count in trained.values())
    return (name, sum(trained.values()), LENGTH - len(trained), again, run.result["accuracy"], run.weights[:12])


table(
    [f"epoch {EPOCH}", "trained", "never", "again", "accuracy at the end", "weights"],
    [sample_row("4 ranks, never killed", four), sample_row("4 ranks, then 2", shrunk)]
    if four and shrunk
    else [("not yet", "–", "–", "–", "–", "–")],
)

# %%
warned = [line.partition("Warning: ")[2] for line in shrunk.output.splitlines() if "Warning: " in line] if shrunk else []
print(warned[0] if warned else "not yet")
print(f"You said {prediction}.")

# %% [markdown]
# Trained is the epoch's 1,797 samples and the last batch's padding, with four ranks (which share 1,797 in fours) and with two. None is
# missing, and none comes again but that padding. What cannot be exact, and the warning says so:
#
# - **Dropout:** the random numbers of ranks 2 and 3 are gone; two ranks now draw for 24 samples each instead of 12.
# - **Batch norm** normalises over what a rank has: 24 samples instead of 12.
# - **Sums** of gradients over two ranks have another order than over four.
#
# The *global* batch stayed at 48. Had each rank kept its 12, the run would train on half the batch at the same learning rate, for twice
# the steps, against a schedule that counts steps.
#
# ## 7. How long does training stand still?
#
# A checkpoint of ResNet-50 and AdamW, on two ranks, saved in three ways: by your package (one writer, fsync, and read back where yours
# does that); by `torch.distributed.checkpoint` (DCP), where each rank writes a share; and by DCP's `async_save`, which copies the
# state and lets a thread write the copy while training goes on.

# %%
import json

ran = lab.start("stall.py", str(lab.runs / "stall"), "--device", lab.device(2), ranks=2)
stall = json.loads((lab.runs / "stall" / "stall.json").read_text()) if ran else {}
WAYS = {"savepoint": "save_checkpoint_ddp", "dcp": "DCP, save", "dcp_async": "DCP, async_save"}
rows = [
    (name, stall[way]["bytes"] / 1e6, stall[way]["stall"], stall[way]["safe"], stall[way]["stall"] / stall["step"])
    for way, name in WAYS.items()
    if stall
]
if stall:
    print(f"{stall['parameters']:,} parameters; {lab.told(2)}; a training step takes {stall['step']:.2f} s.")
table(
    ["way", "MB", "training stands still (s)", "on disk after (s)", "stall, in steps"],
    rows or [("not yet", "–", "–", "–", "–")],
)

# %%
def stall_figure():
    fig, ax = figure(size=(8, 2.4))
    for row, (_, _, still, safe, _) in enumerate(rows):
        ax.barh(row, still, height=0.6, color=BROKEN["color"])
        ax.barh(
            row, safe - still, left=still, height=0.6, facecolor="white", edgecolor=YOURS["color"], hatch="..."
        )
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="seconds since the call")
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    told = "; ".join(f"{n}: stands still {s:.2f} s, on disk after {d:.2f} s" for n, _, s, d, _ in rows)
    numbers = {"way": [r[0] for r in rows], "stands still (s)": [r[2] for r in rows], "on disk (s)": [r[3] for r in rows]}
    return show(fig, f"A bar for each way to save ResNet-50 and AdamW: solid while training stands still, dotted while it goes on. {told}.", numbers)


stall_figure() if rows else None

# %% [markdown]
# Asynchronous saving moves the waiting, it does not remove it: the copy takes memory (once the checkpoint, on the host) and time, the writing
# competes with training for the processor and the disk, and until it is done *this* checkpoint does not exist. A kill in that window
# goes back to the one before. Notebook 06 turns a stall into an interval: with the cost C and a failure every M seconds, about √(2·C·M).

# %%
from workbench.failures import LLAMA3_MTBF

DAY = 24 * 3600
table(
    ["way", "save every (min), one failure a day", "share of time standing still"],
    [
        (name, (2 * still * DAY) ** 0.5 / 60, f"{still / (2 * still * DAY) ** 0.5:.2%}")
        for name, _, still, _, _ in rows
    ]
    or [("not yet", "–", "–")],
)

# %% [markdown]
# ## 8. What do deterministic kernels cost here?
#
# Training steps of ResNet-50 with `use_deterministic_algorithms(True)` and without, in turn; the ratio of each pair.

# %%
ran = lab.start("price.py", str(lab.runs / "price.json"))
price = json.loads((lab.runs / "price.json").read_text()) if ran else {}
ratios = sorted(price["ratios"]) if price else []
table(
    ["on", "images", "a step without (s)", "with / without: least", "median", "most"],
    [(price["device"], "×".join(map(str, price["images"])), price["step"], ratios[0], ratios[len(ratios) // 2], ratios[-1])]
    if price
    else [("not yet", "–", "–", "–", "–", "–")],
)

# %% [markdown]
# A median near 1, with the spread around it, means: not measurable here. On a GPU the price depends on model and device: Zhuang et al.
# ([MLSys 2022](https://arxiv.org/abs/2106.11872)) report up to 746 %. Run this cell on the machine that you will train on.
#
# ## 9. Explain
#
# For your team, in three or four sentences: what does a kill cost your run, what is exact after it, and what is not once the number of
# ranks has changed? (Not graded. It goes into the report below.)

# %%
summary = """
(What a kill costs us, what is exact after it, and what is not.)
"""

# %% [markdown]
# ## 10. Check
#
# No new code: these run your package the way the lab did, in small, and compare with a run that nobody killed. No points either:
# each part has been paid for in its own notebook.

# %% nbgrader={"grade_id": "ddp_lab-killed_rank"}
check("ddp_lab.killed_rank")

# %% nbgrader={"grade_id": "ddp_lab-fewer_ranks"}
check("ddp_lab.fewer_ranks")

# %% [markdown]
# ## 11. Myth against measurement


# %%
def verdict(holds):
    return "holds here" if holds else "refuted"


def same(pair):
    return pair[0].weights == pair[1].weights


beliefs = []
if restarted:
    equal = all(run.weights == peace[n].weights for n, run in restarted.items())
    beliefs += [("“After a crash the run is another run.”", f"kill -9, same ranks: bits {'equal' if equal else 'differ'}", verdict(not equal))]
if three:
    beliefs += [("“Everything restored, so bit-identical.”", f"3 ranks: {'equal' if same(three['as it is']) else 'different'}; --exact: {'equal' if same(three['--exact']) else 'different'}", verdict(same(three["as it is"])))]
if four and shrunk:
    never = LENGTH - len(shrunk.samples(EPOCH))
    beliefs += [("“Other world size: start the epoch over.”", f"4 → 2 ranks in mid-epoch: {never} samples never trained, padding repeated", verdict(never > 0))]
if rows:
    share = stall["dcp_async"]["stall"] / stall["dcp"]["stall"]
    beliefs += [("“Asynchronous saving is free.”", f"stands still {share:.0%} as long as DCP's save does", verdict(share < 0.01))]
table(["belief", "measured", "verdict"], beliefs or [("–", "not yet", "–")])

# %% [markdown]
# ## 12. Take home
#
# **For your checklist:** we have killed a rank of our own training script on purpose, restarted it on fewer machines, and know how long
# it stands still for a checkpoint.
#
# The report, for your team's wiki, is `lab-report.md` beside this notebook:

# %%
sections = {
    "Setting": table(["", ""], [(f"{n} ranks", lab.told(n)) for n in (2, 3, 4)] + [("torch", torch.__version__)]),
    "A rank killed, all restarted": table(["run", "same bits as uninterrupted"], [(lab.told(n), run.weights == peace[n].weights) for n, run in restarted.items()]),
    "Three ranks, stopped by SIGTERM": table(["script", "same bits"], [(name, same(pair)) for name, pair in three.items()]),
    "Four ranks, then two": table(["", "trained", "never", "again"], [sample_row(name, run)[:4] for name, run in (("4", four), ("4, then 2", shrunk)) if run]),
    "ResNet-50 and AdamW, saved": table(["way", "MB", "stands still (s)", "on disk after (s)"], [row[:4] for row in rows]),
    "Deterministic kernels": table(["on", "with / without, median"], [(price["device"], ratios[len(ratios) // 2])] if price else []),
}
text = ["# What a kill costs us", "", summary, ""]
for title, part in sections.items():
    text += [f"## {title}", "", "```", part.text, "```", ""]
if lab.unfinished:
    print(lab.unfinished)
else:
    Path("lab-report.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))

# %% [markdown]
# How others behave here: torchrun itself restarts processes and brings back nothing; what is restored is what your script loads. Its own
# fault-tolerance tutorial saves model and epoch. DCP reshards by itself when the world size changes, and leaves RNG states and the sampler's
# position to you. (Read in their code by the course's authors.)
