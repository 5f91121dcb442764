# %% [markdown]
# # Start here
#
# **Kill a training run anywhere, resume it, and get the same weights, bit for bit.**
# That is the promise of this course. This notebook shows it, breaks it, and shows you how to work.
#
# After it you can
# - say what *bit for bit* means, and test it;
# - edit a file, run a cell, and read what a check tells you.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench import launch
from workbench.figures import table

from grader import card, check, hint, progress

card("start_here")

# %% [markdown]
# ## 1. The promise, shown
#
# `workbench/first_run.py` (installed with the course, as `workbench` is; its source is in `notebooks/workbench/`
# of the repository) trains a small network for six epochs and saves after each. We run it
# twice: once in peace, and once killed with `kill -9` after 70 optimizer steps, in the middle of
# an epoch, then started again. A killed process runs no `finally` and flushes no file.


# %%
def train_in_pieces(folder, *options):
    """Run to the end; and run, kill, resume. The last line each prints is a hash of its weights."""
    in_peace = launch.python("-m", "workbench.first_run", f"{folder}/a.pt", *options)
    killed = launch.python(
        "-m", "workbench.first_run", f"{folder}/b.pt", "--kill-at", "70", *options
    )
    resumed = launch.python("-m", "workbench.first_run", f"{folder}/b.pt", *options)
    return in_peace, killed, resumed


def compare(*options):
    with TemporaryDirectory() as folder:
        in_peace, killed, resumed = train_in_pieces(folder, *options)
    first, second = (run.output.split()[-1] for run in (in_peace, resumed))
    rows = [
        ("never interrupted", in_peace.how, first[:16]),
        ("killed", killed.how, "–"),
        ("resumed", resumed.how, second[:16]),
        ("same weights, bit for bit?", "", "yes" if first == second else "no"),
    ]
    return table(["run", "how it ended", "SHA-256 of the weights (start)"], rows)


compare()

# %% [markdown]
# The two hashes are equal: every bit of every weight agrees. Not close; equal.
#
# The program's whole checkpoint is one line, `torch.save({"model": ..., "epoch": ...}, path)`.
# Why does so little suffice? Plain SGD, a constant learning rate, no dropout, and an order of the
# data that depends on the epoch alone: this run has no state besides its weights and its epoch.
#
# Now one change that every real training script makes:

# %%
compare("--momentum", "0.9")

# %% [markdown]
# Momentum is state too, the file does not hold it, and the promise is broken. Nothing failed:
# no exception, no warning, a loss that looks like a loss. Real runs carry much more such state.
# Each notebook is one incident in which some of it was lost:
#
# | | incident | you build |
# |---|---|---|
# | 01 | the learning rate came back | `checkpoint.py` |
# | 02 | seeded, and different every time | `seeding.py` |
# | 03 | four GPUs, one truncated file | `files.py`, `distributed.py` |
# | 04 | it resumes, one epoch off | `resume.py` |
# | 05 | last year's checkpoint does not load | `compat.py` |
# | 06 | the disk filled at epoch 61 | `storage.py` |
# | 07 | all of it under torchrun | |
#
# ### What the promise covers
#
# One environment: the same kind of machine, the same build of torch, the same number of threads.
# Another number of threads sums in another order, and the last bits differ. Notebook 02 measures it.

# %% [markdown]
# ## 2. How to work
#
# You write in `savepoint/*.py`, a package that you take home. JupyterLab opens these files from the
# panel on the left; any editor will do. Save the file, run the check. No kernel restart is needed:
# a check reads your files anew, in a process of its own, so that whatever your code does (loop for
# ever, fill memory, exit) the notebook lives on. JupyterLab's *Nbgrader* menu and its **Validate**
# button are for classes; on your own you need neither.
#
# Where is your copy?

# %%
import savepoint

here = Path(savepoint.__file__).resolve().parent
table(
    ["file", "lines"],
    [(f"savepoint/{p.name}", len(p.read_text().splitlines())) for p in sorted(here.glob("*.py"))],
)

# %% [markdown]
# ### Task 1: practise once
#
# Open `savepoint/bits.py`. It has one function to write, `same_bits(a, b)`, and its docstring says
# what it promises. Before you write it, look at what the usual comparisons say:

# %%
import torch

one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
pairs = {
    "1.0 and the next float after it": (one, torch.nextafter(one, torch.tensor(2.0))),
    "NaN and the same NaN": (nan, nan.clone()),
    "0.0 and -0.0": (torch.tensor(0.0), torch.tensor(-0.0)),
}
table(
    ["pair", "torch.equal", "torch.allclose", "same bits?"],
    [
        (
            name,
            torch.equal(a, b),
            torch.allclose(a, b),
            a.view(torch.int32).item() == b.view(torch.int32).item(),
        )
        for name, (a, b) in pairs.items()
    ],
)

# %% [markdown]
# Neither column agrees with the last one. Write `same_bits`, save the file, and run this cell.
# Run it before you have written anything, too: its message is what a check looks like.

# %% nbgrader={"grade_id": "start_here-same_bits"}
check("start_here.same_bits")

# %% [markdown]
# A message says what was called, what was expected, what came, and the likeliest misconception.
# Stuck? Each check has three hints, one for each call:

# %%
hint("start_here.same_bits")

# %% [markdown]
# All that a check draws at random comes from a seed; `--seed` repeats a run.
#
# ### In a terminal
#
# JupyterLab has one (File, New, Terminal). From anywhere in this folder:
#
# | command | what it does |
# |---|---|
# | `course check 01` | the checks of a notebook, or one: `course check lr_reset.momentum` |
# | `course watch` | checks a module each time you save it, and shows one failing check at a time |
# | `course hint` | the next hint for what failed first |
# | `course progress` | where you stand; `--checklist` prints the lines to take home |
# | `course solution CHECK` | how the reference does it, once yours passes |
# | `course reset checkpoint` | that file as it was handed out; yours is kept |
#
# ### Where you stand
#
# Run this cell whenever you like. It remembers what was checked. A pass counts as long as the files
# that it was reached on are the same; after an edit they are "to check again".

# %%
progress()

# %% [markdown]
# ## 3. Is this machine all right?
#
# `course doctor` looks. If something does not work, its output is what to send.

# %%
print(launch.python("-c", "from grader.cli import main; main()", "doctor").output)

# %% [markdown]
# ## 4. Habits
#
# - **Compare hashes, not impressions.** "Same loss to four decimals" is not the same run.
# - **Predict before you run.** Each notebook asks you to commit to an answer first; the point is
#   for committing.
# - **Root cause before the fix.** You write down what happened before you mend it.
#
# Next: `01_lr_reset.ipynb`.
