"""Tensors as the judge sees them: dtype, shape and raw bytes, read without torch or pickle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import safetensors

from grader.client import Report

_NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@lru_cache(maxsize=1 << 14)  # every run of a check has the same few hundred names
def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by: runs of digits count as numbers."""
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name))


@dataclass(frozen=True)
class Raw:
    """One tensor. Equal means equal dtype, shape and bits."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    def array(self) -> np.ndarray:
        if self.dtype == "BF16":
            high = np.frombuffer(self.data, np.uint16).astype(np.uint32) << 16
            return high.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, _NUMPY[self.dtype]).reshape(self.shape)

    def norm(self) -> float:
        return float(np.linalg.norm(self.array().astype(np.float64).ravel()))


class Tensors(dict[str, Raw]):
    """Named tensors; names are paths such as ``step3/layers.0.weight``."""

    @classmethod
    def parse(cls, data: bytes | None) -> Tensors:
        """From safetensors bytes, in the names' order. Raises ValueError for anything else."""
        if not data:
            return cls()
        try:
            items = safetensors.deserialize(data)
        except Exception as error:
            raise ValueError(f"not tensors: {error}") from None
        # safetensors hands them out in another order in each process; "the first difference" is
        # the first by name, with step2 before step10.
        items.sort(key=lambda item: _natural(item[0]))
        return cls({n: Raw(i["dtype"], tuple(i["shape"]), bytes(i["data"])) for n, i in items})

    def under(self, prefix: str) -> Tensors:
        """Those below ``prefix/``, without it."""
        cut = len(prefix) + 1
        return Tensors({n[cut:]: t for n, t in self.items() if n.startswith(prefix + "/")})

    def norm(self) -> float:
        return float(np.sqrt(sum(t.norm() ** 2 for t in self.values())))


def differing(expected: Mapping[str, Raw], got: Mapping[str, Raw]) -> list[str]:
    """The names, in ``expected``'s order, whose tensors are not there or not equal."""
    return [name for name, tensor in expected.items() if got.get(name) != tensor]


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Drawn inputs as safetensors bytes, for a probe."""
    from safetensors.numpy import save

    # Not ascontiguousarray: it would turn a shape of () into (1,).
    return save({name: np.asarray(array, order="C") for name, array in tensors.items()})


class Malformed(ValueError):
    """A probe's process reported something that the probe itself never would."""


class Facts(dict[str, Any]):
    """What a probe claims. A claim that is not there is a forger's work, not the grader's fault."""

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls({k: cls.of(v) for k, v in value.items()}) if isinstance(value, dict) else value

    def __missing__(self, key: str) -> Any:
        raise Malformed(f"it says nothing of {key!r}")


@dataclass(frozen=True)
class Evidence:
    """What came out of one rank of a probe. ``facts`` are claims: good for a message only."""

    facts: dict[str, Any]
    tensors: Tensors
    files: dict[str, bytes] = field(repr=False)
    listing: list[list[Any]]
    notes: list[str]

    @classmethod
    def of(cls, report: Report) -> Evidence:
        notes = report.details.get("notes")
        return cls(
            Facts.of(report.facts),
            Tensors.parse(report.tensors),
            report.files,
            report.listing,
            [str(note) for note in notes] if isinstance(notes, list) else [],
        )

    def parts(self, runs: int) -> list[Evidence]:
        """What came out of each of several ``runs`` in one process, in their order."""
        return [self._part(str(number)) for number in range(runs)]

    def _part(self, name: str) -> Evidence:
        """Of several runs in one process, what came out of the one called ``name``."""
        start, facts = f"{name}/", self.facts[name]
        if not isinstance(facts, Facts):
            raise Malformed(f"what it says of {name!r} is no dict")
        return Evidence(
            facts,
            self.tensors.under(name),
            {k.removeprefix(start): v for k, v in self.files.items() if k.startswith(start)},
            [
                [name.removeprefix(start), *rest]
                for name, *rest in self.listing
                if name.startswith(start)
            ],
            self.notes,
        )

    def left(self) -> list[str]:
        """Names of everything in the probe's directory when it ended."""
        return [str(entry[0]) for entry in self.listing]


def names(items: Iterable[str], limit: int = 4) -> str:
    """A short list for a message: ``a, b, c and 7 more``."""
    found = list(items)
    shown = ", ".join(found[:limit])
    return shown if len(found) <= limit else f"{shown} and {len(found) - limit} more"
