"""Incident 03: atomic_save, killed at a chosen instant or stopped by an error; verify_file."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workbench.faults import kill_now

from grader.child import Context, probe

SAVE = "atomic_save(obj, path)"
NAME = "model[1].pt"  # to a pattern that is not escaped, [1] is the digit 1


class Pickled:
    """Runs ``action`` in the middle of a save. What is stored, and comes back, is an empty dict."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def __reduce__(self) -> tuple[Any, ...]:
        self.action()
        return (OrderedDict, ())


def payload(tensors: dict[str, Tensor], step: int) -> dict[str, Any]:
    return {"step": step, "tensors": dict(tensors)}


def chain(error: BaseException) -> list[BaseException]:
    """An exception, and those that it was raised from or while handling."""
    found: list[BaseException] = []
    while error is not None and error not in found and len(found) < 10:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


class Instants:
    """Kills this process at one instant of what runs inside the ``with`` block.

    An instant is before or after a call into C (``("replace", "c_call", 0)``: just before the
    first one of that name), or the n-th event of any kind. Counts them where there is none.
    """

    def __init__(self, kill: Any) -> None:
        self.kill, self.events = kill, 0
        self.seen: dict[str, int] = {}

    def __enter__(self) -> Instants:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        self.events += 1
        if self.kill == self.events:
            kill_now()
        if event.startswith("c_"):
            key = f"{getattr(argument, '__name__', '?')} {event}"
            number = self.seen.get(key, 0)
            self.seen[key] = number + 1
            if self.kill == [key, number]:
                kill_now()


@probe
def save_in_ranks(context: Context):
    """Each rank saves in a directory of its own, and is killed there at an instant of its own.

    ``plans`` is a list by rank; a plan's "kill" is an instant (see Instants), "inside" (while the
    object is being pickled), "after" (as soon as the call has returned) or None.
    """
    plan = context.args["plans"][context.rank]
    path = Path(plan["folder"]) / NAME
    path.parent.mkdir(exist_ok=True)
    os.umask(context.args.get("umask", 0o022))
    for name, mode in plan.get("modes", {}).items():
        Path(name).chmod(mode)
    function = context.module("files").atomic_save
    obj = payload(context.tensors, context.args["step"])
    obj["slow"] = Pickled(kill_now if plan["kill"] == "inside" else lambda: time.sleep(0.05))
    context.stage(SAVE)
    instants = Instants(plan["kill"])
    with instants:
        function(obj, path)
    if plan["kill"] == "after":
        kill_now()
    return {"events": instants.events, "seen": instants.seen if plan.get("count") else {}}


@probe
def make_file(context: Context):
    """Trusted: what torch.save writes for the drawn tensors."""
    torch.save(payload(context.tensors, context.args["step"]), "model.pt")
    return {}


@probe
def inspect_files(context: Context):
    """Trusted: for each file here, whether it is torch's zip format, opens, and what it holds."""
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in context.args["names"]:
        try:
            with Path(name).open("rb") as file:
                is_zip = file.read(4) == b"PK\x03\x04"
            held = torch.load(name, weights_only=True)
            tensors |= {f"{name}/{key}": t for key, t in held["tensors"].items()}
            facts[name] = {"opens": True, "zip": is_zip, "step": held["step"]}
        except Exception:
            facts[name] = {"opens": False, "zip": False, "step": None}
    return facts, tensors


ERRORS: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "RuntimeError": lambda: RuntimeError("the object would not be saved"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "ValueError": lambda: ValueError("the object would not be saved"),
}


def _raise(error: BaseException) -> None:
    raise error


@probe
def save_with_errors(context: Context):
    """One save for each name in ``errors``, over an existing file; then one that goes well."""
    import resource

    function = context.module("files").atomic_save
    facts: dict[str, Any] = {}
    for folder, kind in context.args["errors"].items():
        obj = payload(context.tensors, 2)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if kind == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        elif kind in ERRORS:
            obj["fails"] = Pickled(lambda kind=kind: _raise(ERRORS[kind]()))
        context.stage(f"atomic_save(obj, path) with {kind} while it saves")
        try:
            function(obj, f"{folder}/model.pt")
            facts[folder] = {"raised": []}
        except NotImplementedError:
            raise
        except BaseException as error:
            facts[folder] = {"raised": [type(e).__name__ for e in chain(error)]}
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return facts


@probe
def save_politely(context: Context):
    """Saves under several umasks, over files with modes, through links, beside others' files."""
    function = context.module("files").atomic_save
    tensors, places = context.tensors, context.args["places"]

    def save(path: Any, obj: Any = None, said: str = SAVE) -> None:
        context.stage(said)
        function(payload(tensors, 2) if obj is None else obj, path)

    for name, mode in places["existing"].items():
        Path(name).chmod(mode)
    for name, umask in places["new"].items():
        os.umask(umask)
        save(name, said=f"atomic_save(obj, path) to a new file under umask {umask:03o}")
        after = os.umask(umask)
        if after != umask:
            return {"umask": [umask, after]}
        # A second new file, which a umask that was not put back would spoil.
        save(f"{name}.second")
    os.umask(0o022)
    for name in places["existing"]:
        save(Path(name))
    _links(save)
    # One save begins while another is under way.
    for outer, inner in (("pair/model.pt", "pair/model.best"), ("swap/a.tmp", "swap/a.pt")):
        said = f"atomic_save to {outer} while {inner} is saved too"
        nested = payload(tensors, 2)
        nested["inner"] = Pickled(partial(save, inner, payload(tensors, 3), said))
        save(outer, nested, said)
    return _elsewhere(save)


def _links(save: Callable[..., None]) -> None:
    """To a file elsewhere (relative, as ``ln -s`` makes it), to a link, to another disk."""
    for name in ("run", "other"):
        Path(f"links/store/{name}.pt").chmod(0o640)
    Path("links/latest.pt").symlink_to("store/run.pt")
    Path("links/newest.pt").symlink_to("hop.pt")
    Path("links/hop.pt").symlink_to("store/other.pt")
    save("links/latest.pt", said="atomic_save(obj, path) where path is a symbolic link")
    save("links/newest.pt", said="atomic_save(obj, path) where path is a link to a link")
    if shm := _other_disk():
        with tempfile.TemporaryDirectory(dir=shm) as folder:
            far = Path(folder) / "run.pt"
            far.write_bytes(Path("links/store/run.pt").read_bytes())
            Path("links/far.pt").symlink_to(far)
            save("links/far.pt", said="atomic_save(obj, path) where path links to another disk")
        Path("links/far.pt").unlink()


def _other_disk() -> Path | None:
    shm = Path("/dev/shm")
    there = shm.is_dir() and os.access(shm, os.W_OK)
    return shm if there and shm.stat().st_dev != Path.cwd().stat().st_dev else None


def _elsewhere(save: Callable[..., None]) -> dict[str, Any]:
    """Hard links show a write into the old file; so does a temp directory on another disk."""
    for name in ("hard/a.pt", "hard/a.tmp"):
        Path(name + ".kept").hardlink_to(name)
    save("hard/a.tmp")
    shm = _other_disk()
    if shm is None:
        save("hard/a.pt")
        return {}
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        save("hard/a.pt", said="atomic_save(obj, path) with TMPDIR on another disk")
    return {}


class _Opens:
    """Unpickled, it makes a file: harmless, and seen from outside."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran-code", "w"))


@probe
def make_damaged(context: Context):
    """Trusted: one sound file, and what is wrong in each other one, by the drawn places."""
    import pickle
    import zipfile

    obj = payload(context.tensors, 2) | {"lr": 0.1, "name": "AdamW"}
    torch.save(obj, "sound.pt")
    torch.save([obj["tensors"], 0.5], "sound-list.pt")
    sound = Path("sound.pt").read_bytes()
    torch.save(obj, "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(obj | {"unsafe": _Opens()}, "unsafe.pt")
    Path("pickle.pt").write_bytes(pickle.dumps([1, 2, 3]))
    Path("text.pt").write_text("epoch,loss\n1,0.5\n")
    with zipfile.ZipFile("ordinary.pt", "w") as archive:
        archive.writestr("notes.txt", "no checkpoint")
    Path("empty.pt").touch()
    for number, part in enumerate(context.args["cuts"]):
        Path(f"cut-{number}.pt").write_bytes(sound[: int(part * len(sound))])
    Path("cut-last-byte.pt").write_bytes(sound[:-1])
    records = {}
    with zipfile.ZipFile("sound.pt") as archive:
        infos = [info for info in archive.infolist() if info.file_size]
        for info in infos:
            start = info.header_offset + 30
            name, extra = (
                int.from_bytes(sound[start - n : start - n + 2], "little") for n in (4, 2)
            )
            records[info.filename] = (start + name + extra, info.file_size)
    for number, (record, (start, size)) in enumerate(records.items()):
        # In data.pkl the learning rate, so that what is damaged still loads.
        place = start + int(context.args["place"] * size)
        if record.endswith("data.pkl"):
            place = sound.index(bytes.fromhex("3fb999999999999a"), start) + 5
        damaged = bytearray(sound)
        damaged[place] ^= 1 << context.args["bit"]
        Path(f"flip-{number}.pt").write_bytes(damaged)
    return {"records": [record.split("/", 1)[1] for record in records]}


@probe
def verify(context: Context):
    """Call verify_file on each file, and on one that is not there."""
    module = context.module("files")
    facts: dict[str, Any] = {}
    for name in [*context.args["names"], "nowhere.pt"]:
        try:
            returned = context.call(module, "verify_file", name, said="verify_file(path)")
            facts[name] = {"raised": None, "returned": repr(returned)[:60]}
        except NotImplementedError:
            raise
        except Exception as error:
            facts[name] = {
                "raised": type(error).__name__,
                "bases": [base.__name__ for base in type(error).__mro__],
            }
    return facts
