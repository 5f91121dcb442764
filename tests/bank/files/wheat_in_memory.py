"""Wheat: serialises in memory first, writes with os.write, prints what it does."""

import binascii
import io
import os
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    content = buffer.getbuffer()
    path = os.path.realpath(path)
    print(f"saving {len(content)} bytes to {path}")
    folder, name = os.path.split(path)
    temp = os.path.join(folder, f".{name}.incomplete")
    try:
        os.unlink(temp)
    except FileNotFoundError:
        pass
    handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            written = 0
            while written < len(content):
                written += os.write(handle, content[written : written + (1 << 20)])
            try:
                os.fchmod(handle, os.stat(path).st_mode & 0o7777)
            except FileNotFoundError:
                pass
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(temp, path)
    except BaseException:
        os.unlink(temp)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    print("saved")


def verify_file(path):
    with open(path, "rb") as file:
        content = file.read()
    try:
        if content[:4] != b"PK\x03\x04":
            raise ValueError("no zip file")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if binascii.crc32(archive.read(info)) != info.CRC:
                    raise ValueError(info.filename)
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is not sound ({type(error).__name__})") from None
    print(path, "is sound")
