"""Incident 06 beyond its checks: sizes, real stores, and the workbench's disk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench.disks import OPTIMIZERS, digits_net, on_disk
from workbench.failures import LLAMA3_MTBF, useful

from grader.paths import ROOT, SOLUTIONS

sys.path.insert(0, str(SOLUTIONS))
from savepoint.checkpoint import save_checkpoint
from savepoint.files import verify_file
from savepoint.storage import (
    CheckpointManager,
    best_interval,
    checkpoint_nbytes,
    run_nbytes,
)

sys.path.remove(str(SOLUTIONS))


def tiny() -> dict[str, Any]:
    model = torch.nn.Linear(4, 4)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "scheduler": None}


def step(run: dict[str, Any]) -> None:
    for parameter in run["model"].parameters():
        parameter.grad = torch.ones_like(parameter)
    run["optimizer"].step()


# ---- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_prediction_is_the_file_to_two_percent(name, tmp_path):
    run = digits_net(name)
    before = checkpoint_nbytes(run["model"], run["optimizer"])
    step(run)
    save_checkpoint(tmp_path / "c.pt", **run, scheduler=None, epoch=0, loss=0.0)
    assert before == pytest.approx((tmp_path / "c.pt").stat().st_size, rel=0.02)


@pytest.mark.parametrize("keep_last, keep_every", [(1, 0), (3, 0), (2, 4), (3, 1)])
def test_a_run_is_what_was_predicted(keep_last, keep_every, tmp_path):
    run = digits_net("AdamW")
    plan = {"keep_last": keep_last, "keep_every": keep_every}
    before = run_nbytes(run["model"], run["optimizer"], epochs=9, **plan)
    manager = CheckpointManager(tmp_path / "run", **plan)
    for epoch in range(1, 10):
        step(run)
        manager.save(**run, scheduler=None, epoch=epoch, loss=1.0, metric=1 / epoch)
    assert before == pytest.approx(on_disk(tmp_path / "run"), rel=0.02)


def test_the_interval_is_the_best_of_the_simulated():
    best = best_interval(30, LLAMA3_MTBF)
    assert 810 < best < 870
    there = useful(best, save_seconds=30)
    assert 0.91 < there < 0.94
    assert all(useful(t, save_seconds=30) <= there + 0.002 for t in range(100, 8000, 50))


# ---- the mirror, on real stores --------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    """An S3 server of its own process, and a bucket in it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    patch = pytest.MonkeyPatch()
    for name, value in settings.items():
        patch.setenv(name, value)
    try:
        import s3fs

        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, "no S3 server"
                time.sleep(0.1)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield server
    finally:
        patch.undo()
        server.kill()
        server.wait()


def mirrored_to(url: str, directory: Path) -> dict[str, bytes]:
    """Four saves with keep_last=1; what the mirror then holds."""
    import fsspec

    run, manager = tiny(), CheckpointManager(directory, keep_last=1, mirror=url)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for number, metric in enumerate([0.5, 0.4, 0.6, None], start=1):
            step(run)
            manager.save(**run, epoch=number, loss=0.0, metric=metric)
    store, root = fsspec.core.url_to_fs(url)
    return {path.rsplit("/", 1)[1]: store.cat_file(path) for path in store.find(root)}


ALL = {"step-1.pt", "step-2.pt", "step-3.pt", "step-4.pt", "best-1.pt", "best-2.pt"}


@pytest.mark.parametrize("url", ["{tmp}/far/away", "file://{tmp}/far", "memory://far/away"])
def test_mirror(url, tmp_path):
    held = mirrored_to(url.format(tmp=tmp_path), tmp_path / "run")
    assert set(held) == ALL
    for path in (tmp_path / "run").iterdir():
        assert held[path.name] == path.read_bytes()


@pytest.mark.slow
def test_mirror_on_s3(s3, tmp_path):
    held = mirrored_to("s3://bucket/far/away", tmp_path / "run")
    assert set(held) == ALL
    for path in (tmp_path / "run").iterdir():
        assert held[path.name] == path.read_bytes()
    (tmp_path / "back").mkdir()
    for name, data in held.items():
        (tmp_path / "back" / name).write_bytes(data)
    for path in (tmp_path / "back").iterdir():
        verify_file(path)
    assert CheckpointManager(tmp_path / "back").last().name == "step-4.pt"


@pytest.mark.slow
def test_s3_that_refuses_stops_nothing_and_is_named(s3, tmp_path):
    manager = CheckpointManager(tmp_path / "run", mirror="s3://no-such-bucket-of-ours!/x")
    with pytest.warns(UserWarning, match=r"step-1\.pt"):
        assert manager.save(**tiny(), epoch=1, loss=0.0).exists()


# ---- the workbench's disk --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file-size limit")
@pytest.mark.parametrize("how, survives", [("overwrite", False), ("replace", True)])
def test_a_really_full_disk(how, survives, tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"epoch": 0, "filler": torch.zeros(10_000)}, path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "workbench.disks", how, str(path), "--room", "100000"],
        capture_output=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 1
    assert (path.read_bytes() == before) is survives
    assert os.listdir(tmp_path) == ["last.pt"]  # noqa: PTH208
