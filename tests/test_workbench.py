"""The training program that the incidents happen to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbench import MLP, Net, batches, digits, evaluate, fingerprint, launch, train
from workbench.figures import figure, show, table
from workbench.moments import Moment
from workbench.runs import digits_run


def test_digits_are_real_and_split_the_same_way_each_time():
    data = digits()
    assert data.train_x.shape == (1437, 1, 8, 8) and data.val_x.shape == (360, 1, 8, 8)
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    assert sorted(data.val_y.unique().tolist()) == list(range(10))
    digits.cache_clear()
    assert fingerprint(list(digits())) == fingerprint(list(data))


@given(st.integers(0, 50), st.integers(0, 50))
def test_order_of_batches_is_a_function_of_seed_and_epoch(seed, epoch):
    x = torch.arange(20.0).reshape(20, 1)
    before = torch.get_rng_state()
    first, again = (
        torch.cat([b for b, _ in batches(x, x, batch_size=5, seed=seed, epoch=epoch)])
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert sorted(first.flatten().tolist()) == list(range(20))
    assert torch.equal(before, torch.get_rng_state())


def test_fingerprint_sees_one_bit_and_knows_nan():
    one = torch.ones(3)
    other = one.clone()
    other[1] = math.nextafter(1.0, 2.0)
    assert fingerprint(one) == fingerprint(one.clone())
    assert fingerprint(torch.tensor(0.0)) != fingerprint(torch.tensor(-0.0))
    assert fingerprint(torch.tensor(math.nan)) == fingerprint(torch.tensor(math.nan))
    assert fingerprint(one) != fingerprint(one.double())
    assert fingerprint(one.bfloat16()) == fingerprint(one.bfloat16())
    assert fingerprint({"a": one, "b": [1, 2.0]}) != fingerprint({"a": one, "b": [1, 2.5]})
    assert fingerprint(one.reshape(1, 3)) != fingerprint(one)
    transposed = torch.arange(6.0).reshape(2, 3).t()
    assert fingerprint(transposed) == fingerprint(transposed.contiguous())


def test_evaluate_draws_nothing_and_keeps_the_mode():
    model, data = Net(), digits()
    model.train()
    before = torch.get_rng_state()
    evaluate(model, data.val_x, data.val_y)
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_a_moment_brings_everything_back_and_leaves_out_what_it_is_told_to():
    data = digits()
    run = digits_run("SGD")
    train(**run, data=data, epochs=1)
    moment = Moment(run)
    train(**run, data=data, epochs=2, start_epoch=1)
    truth = fingerprint(run["model"])
    for left_out, same in (((), True), (("optimizer",), False), (("numpy",), False)):
        run = digits_run("SGD")
        moment.restore(run, leave_out=left_out)
        train(**run, data=data, epochs=2, start_epoch=1)
        assert (fingerprint(run["model"]) == truth) is same, left_out


def test_the_models_learn():
    for model in (MLP(), Net()):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        history = train(model, optimizer, None, digits(), epochs=3)
        assert history.val_accuracy[-1] > 0.8
        assert len(history.loss) == len(history.lr) == 3 * 28 and history.epochs == [0, 1, 2]


def test_launch_captures_kills_and_leaves_nothing_behind():
    assert launch.python("-c", "print('hello')").output == "hello\n"
    assert launch.python("-c", "import sys; sys.exit(3)").how == "failed, exit status 3"
    killed = launch.python("-c", "from workbench.faults import kill_now; kill_now()")
    assert killed.killed and killed.how == "killed by SIGKILL"
    slow = launch.python("-c", "import time; time.sleep(60)", timeout=1)
    assert slow.returncode is None and slow.how == "ran into its time limit"


def test_show_insists_on_alt_text_and_escapes_it():
    fig, ax = figure()
    ax.plot([1, 2])
    shown = show(fig, 'a "line" & more', {"x": [1, 2]})
    assert 'alt="a &quot;line&quot; &amp; more"' in shown._repr_html_()
    assert "<details>" in shown._repr_html_() and 'a "line"' in repr(shown)
    with pytest.raises(ValueError, match="alt text"):
        show(fig, " ")


def test_table_escapes_and_has_a_text_form():
    shown = table(["a"], [("<b>",), (True,), (0.123456,)])
    assert "&lt;b&gt;" in shown._repr_html_()
    assert repr(shown).splitlines() == ["a", "<b>", "yes", "0.1235"]
