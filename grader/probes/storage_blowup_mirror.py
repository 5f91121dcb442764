"""Incident 06: a manager with a mirror that is there, slow, down, or comes back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from workbench.faults import kill_now

from grader.child import Context, probe
from grader.probes.storage_blowup import Script

STORE = "store"  # where the unsteady store keeps its files
ERRORS: dict[str, type[Exception]] = {
    "OSError": OSError,
    "TimeoutError": TimeoutError,  # a client that gives up on a store that hangs
    "RuntimeError": RuntimeError,
    "KeyError": KeyError,
    "ValueError": ValueError,
}


class Unsteady(LocalFileSystem):
    """``unsteady://name/file``: a local directory behind a protocol, up or down as it is told."""

    protocol = "unsteady"
    cachable = False
    down: tuple[str, str] | None = None  # (type of error, its text)
    seconds = 0.0
    root = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._meet("connect")

    @classmethod
    def _meet(cls, what: str) -> None:
        time.sleep(cls.seconds if what in ("write", "put") else 0)
        if cls.down is not None:
            kind, text = cls.down
            raise ERRORS[kind](text)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        path = os.fspath(path).removeprefix("unsteady://").rstrip("/")
        return path if path.startswith(cls.root) else f"{cls.root}/{path.lstrip('/')}"

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        self._meet("mkdir")
        super().mkdir(path, create_parents, **options)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._meet("mkdir")
        super().makedirs(path, exist_ok)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **options: Any) -> None:
        self._meet("put")
        target = Path(self._strip_protocol(rpath))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(lpath).read_bytes())

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._meet("put")
        super().cp_file(path1, path2, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._meet("put")
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(value)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._meet("write" if "w" in mode else "read")
        Path(self._strip_protocol(path)).parent.mkdir(parents=True, exist_ok=True)
        return super()._open(path, mode, **options)


@probe
def mirrored(context: Context):
    """Do what the script says; events may take the store down, up, or make it slow."""
    Unsteady.root = str(Path(STORE).resolve())
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    script = Script(context)
    log: list[Any] = []
    for event in context.args["script"]:
        if event["do"] == "down":
            Unsteady.down = (event["error"], event["text"])
        elif event["do"] == "up":
            Unsteady.down = None
        elif event["do"] == "slow":
            Unsteady.seconds = event["seconds"]
        elif event["do"] == "end":
            kill_now()  # what is not on the mirror now will never be
        else:
            log.append(script.do(event))
    return {"log": log}


@probe
def in_memory(context: Context):
    """A mirror in this process's memory: which names and how many bytes it then holds."""
    script = Script(context)
    log = [script.do(event) for event in context.args["script"]]
    store, root = fsspec.core.url_to_fs(context.args["url"])
    held: dict[str, int] = {}
    if store.exists(root):
        held = {name.removeprefix(root).lstrip("/"): store.size(name) for name in store.find(root)}
        for name in held:
            target = Path("held", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.cat_file(f"{root}/{name}"))
    return {"log": log, "held": held}
