"""Messages between judge, server and probe: a JSON header and named blobs of bytes.

Never pickle: what arrives may have been written by a submission. A message is

    4 bytes   length of the header, big-endian
    header    JSON; its key "blobs" lists [name, length] pairs
    blobs     in that order

Before a request goes one byte more, PLAIN or COMPILED: all of a request that its server reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

PLAIN, COMPILED = b"p", b"c"  # COMPILED: its probe imports torch's compiler
MAX_HEADER = 4 << 20
MAX_MESSAGE = 256 << 20


class WireError(Exception):
    """The other side sent something that is not a message."""


def send(stream: BinaryIO, header: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None):
    """Write one message and flush it."""
    blobs = blobs or {}
    text = json.dumps({**header, "blobs": [[name, len(b)] for name, b in blobs.items()]}).encode()
    stream.write(struct.pack(">I", len(text)) + text)
    for blob in blobs.values():
        stream.write(blob)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Read one message; None at the end of the stream. Raises WireError for anything else."""
    prefix = stream.read(4)
    if not prefix:
        return None
    if len(prefix) < 4:
        raise WireError("the stream ended inside a message")
    (length,) = struct.unpack(">I", prefix)
    if length > MAX_HEADER:
        raise WireError(f"a header of {length} bytes")
    header = _header(_exactly(stream, length))
    blobs, total = {}, 0
    for name, size in header.pop("blobs"):
        total += size
        if total > MAX_MESSAGE:
            raise WireError(f"a message of more than {MAX_MESSAGE} bytes")
        blobs[name] = _exactly(stream, size)
    return header, blobs


def parse(data: bytes) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    """Every whole message in ``data``; what follows the last whole one is dropped."""
    import io

    stream, messages = io.BytesIO(data), []
    while True:
        try:
            message = receive(stream)
        except WireError:
            return messages
        if message is None:
            return messages
        messages.append(message)


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    blobs = header.get("blobs") if isinstance(header, dict) else None
    if not isinstance(blobs, list) or not all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and type(pair[1]) is int
        and pair[1] >= 0
        for pair in blobs
    ):
        raise WireError("not a message's header")
    return header


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise WireError("the stream ended inside a message")
    return data
