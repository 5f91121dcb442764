"""Wrong: what a killed save left is truncated and used again, with the mode it had: a new file gets that one; "permissions: a new file by the umask"."""
import os
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    final = os.path.realpath(str(os.fspath(path)))
    here = os.path.dirname(final)
    spare = os.path.join(here, "." + os.path.basename(final) + ".spare")

    def clear():
        if os.path.lexists(spare):
            os.unlink(spare)

    def write():
        with open(spare, "wb") as f:
            torch.save(obj, f)
            f.flush()
            if os.path.exists(final):
                os.chmod(spare, os.stat(final).st_mode & 0o7777)
            os.fsync(f.fileno())

    def settle():
        fd = os.open(here, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    try:
        write()
        os.replace(spare, final)
    finally:
        clear()
    settle()


def verify_file(path):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    try:
        assert_zip(path)
        torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as e:
        raise CheckpointError(f"{path}: {type(e).__name__}") from None


def assert_zip(path):
    with open(path, "rb") as f:
        if f.read(4) != b"PK\x03\x04":
            raise CheckpointError(f"{path}: not torch's zip format")
    with zipfile.ZipFile(path) as z:
        first = z.testzip()
        if first:
            raise CheckpointError(f"{path}: {first} is damaged")
