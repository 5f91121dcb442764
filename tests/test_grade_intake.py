"""What is handed in, however it is damaged or hostile: read without trusting it, and named."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile

import pytest

from grader.classroom import intake, rebuild
from grader.classroom.config import ASSIGNMENT
from grader.paths import NOTEBOOKS

STEM = "01_lr_reset"
NOTEBOOK = (NOTEBOOKS / f"{STEM}.ipynb").read_bytes()
ANSWER, CAUSE = "lr_reset-prediction-answer", "lr_reset-cause"


def read(tmp_path, student="ada"):
    return intake.read(tmp_path, student, ASSIGNMENT, [STEM])


def folder(tmp_path, student="ada"):
    home = tmp_path / student / ASSIGNMENT
    (home / "savepoint").mkdir(parents=True)
    (home / "savepoint" / "checkpoint.py").write_text("mine = 1")
    (home / f"{STEM}.ipynb").write_bytes(NOTEBOOK)
    return home


def test_a_folder(tmp_path):
    home = folder(tmp_path)
    (home / "savepoint" / "__pycache__").mkdir()
    (home / "savepoint" / "__pycache__" / "x.py").write_text("stale")
    (home / "notes.txt").write_text("not used")
    found = read(tmp_path)
    assert found.why is None and not found.notes
    assert found.package == {"savepoint/checkpoint.py": b"mine = 1"}
    assert found.notebooks == {STEM: NOTEBOOK}


def test_links_pipes_and_devices_are_named_and_not_followed(tmp_path):
    home = folder(tmp_path)
    secret = tmp_path / "secret.py"
    secret.write_text("the solution")
    (home / "savepoint" / "resume.py").symlink_to(secret)
    (home / "savepoint" / "more").symlink_to(tmp_path)
    os.mkfifo(home / "savepoint" / "pipe.py")
    found = read(tmp_path)
    assert found.package == {"savepoint/checkpoint.py": b"mine = 1"}
    said = "; ".join(found.notes)
    assert "savepoint/resume.py is a symbolic link" in said and "savepoint/more is" in said
    assert "pipe.py is not a plain file" in said


@pytest.mark.parametrize("what", ["student", "assignment", "savepoint"])
def test_a_link_in_a_folder_s_place(tmp_path, what):
    real = folder(tmp_path, "bob")
    home = tmp_path / "ada"
    if what == "student":
        home.symlink_to(tmp_path / "bob")
    elif what == "assignment":
        home.mkdir()
        (home / ASSIGNMENT).symlink_to(real)
    else:
        (home / ASSIGNMENT).mkdir(parents=True)
        (home / ASSIGNMENT / "savepoint").symlink_to(real / "savepoint")
    found = read(tmp_path)
    assert found.why and "symbolic link" in found.why
    assert not found.package and not found.notebooks


def archive(tmp_path, kind, entries, name=ASSIGNMENT):
    """An archive of (path, data or a link's target, is a link)."""
    home = tmp_path / "ada"
    home.mkdir(exist_ok=True)
    if kind == "zip":
        with zipfile.ZipFile(home / f"{name}.zip", "w") as opened:
            for path, data, link in entries:
                info = zipfile.ZipInfo(path)
                info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
                opened.writestr(info, data)
        return
    with tarfile.open(home / f"{name}.tar.gz", "w:gz") as opened:
        for path, data, link in entries:
            info = tarfile.TarInfo(path)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, data
                opened.addfile(info)
            else:
                info.size = len(data.encode())
                opened.addfile(info, io.BytesIO(data.encode()))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_s_hostile_entries_are_named_and_the_rest_is_read(tmp_path, kind):
    archive(
        tmp_path,
        kind,
        [
            ("bob_bit_for_bit/savepoint/checkpoint.py", "mine = 1", False),
            (f"bob_bit_for_bit/{STEM}.ipynb", NOTEBOOK.decode(), False),
            ("../bob/bit_for_bit/savepoint/checkpoint.py", "planted", False),
            ("/etc/cron.d/savepoint/evil.py", "planted", False),
            ("bob_bit_for_bit/savepoint/resume.py", "/etc/passwd", True),
        ],
    )
    before = sorted(p for p in tmp_path.rglob("*"))
    found = read(tmp_path)
    assert found.student == "ada"  # whatever name stands in the archive
    assert found.package == {"savepoint/checkpoint.py": b"mine = 1"}
    assert found.notebooks[STEM] == NOTEBOOK
    said = "; ".join(found.notes)
    assert "a path outside of it" in said and "an absolute path" in said
    assert "is a symbolic link" in said
    assert sorted(p for p in tmp_path.rglob("*")) == before  # nothing was unpacked


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "ada").mkdir()
    path = tmp_path / "ada" / f"{ASSIGNMENT}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("savepoint/checkpoint.py", "#" * (64 << 20))
        opened.writestr("savepoint/files.py", "mine = 1")
    found = read(tmp_path)
    assert "checkpoint.py is larger than 1 MB" in "; ".join(found.notes)
    assert found.package == {"savepoint/files.py": b"mine = 1"}


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"x" * 100])
def test_a_damaged_archive_has_its_reason(tmp_path, data):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / f"{ASSIGNMENT}.zip").write_bytes(data)
    assert "cannot be read" in read(tmp_path).why


def test_an_empty_folder_and_a_huge_notebook_have_their_reasons(tmp_path):
    (tmp_path / "ada" / ASSIGNMENT).mkdir(parents=True)
    assert "neither savepoint/ nor a notebook" in read(tmp_path).why
    home = folder(tmp_path, "bob")
    with (home / f"{STEM}.ipynb").open("wb") as file:
        file.truncate(intake.MAX_NOTEBOOK + 1)
    found = read(tmp_path, "bob")
    assert "larger than 10 MB" in found.unread[STEM] and found.package and found.why is None


def edited(edit) -> dict[str, str]:
    nb = json.loads(NOTEBOOK)
    edit(nb)
    return rebuild.answers(json.dumps(nb).encode())


def cell(nb, grade_id):
    return next(
        c for c in nb["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == grade_id
    )


def spoil(nb):
    """Cells duplicated, deleted, edited, and metadata of every wrong kind."""
    answer = cell(nb, ANSWER)
    answer["source"] = 'prediction = "a"'
    nb["cells"].append({**answer, "source": 'prediction = "c"'})
    nb["cells"].remove(cell(nb, "lr_reset-momentum"))
    cell(nb, "lr_reset-rng")["source"] = "3.0"
    cell(nb, "lr_reset-rng")["metadata"]["nbgrader"]["points"] = "x"
    nb["cells"] += [{}, None, {"metadata": {"nbgrader": {}}, "source": 3}, {"metadata": None}]
    nb["cells"].append({"metadata": {"nbgrader": {"grade_id": ["x"]}}, "source": ""})
    nb["metadata"] = {"kernelspec": {"name": "evil"}}
    nb["nbformat"] = 99


def test_a_spoilt_notebook_is_the_released_one_with_the_learner_s_answers():
    released = json.loads(NOTEBOOK)
    rebuilt = rebuild.rebuild(released, edited(spoil))
    assert cell(rebuilt, ANSWER)["source"] == 'prediction = "c"'  # the last, as for nbgrader
    cell(rebuilt, ANSWER)["source"] = cell(released, ANSWER)["source"]
    assert rebuilt == released


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[]", b'{"cells": 3}', b"{" * 100_000, b"[" * 200_000, b"3"]
)
def test_what_is_no_notebook_is_unreadable(data):
    with pytest.raises(rebuild.Unreadable):
        rebuild.answers(data)


def test_an_answer_starts_no_script_in_the_instructor_s_browser():
    text = 'x < y <script>alert(1)</script> [a](javascript:alert(1)) <img src=x onerror="y">'
    given = edited(lambda nb: cell(nb, CAUSE).update(source=text + "\ud800\x00"))
    source = cell(rebuild.rebuild(json.loads(NOTEBOOK), given), CAUSE)["source"]
    assert "<script" not in source and "</script" not in source and "<img" not in source
    assert "javascript:" not in source and "x < y" in source
    assert source.replace(rebuild.INVISIBLE, "").startswith(text)
    source.encode()
    long = edited(lambda nb: cell(nb, CAUSE).update(source="x" * (1 << 20)))
    assert len(cell(rebuild.rebuild(json.loads(NOTEBOOK), long), CAUSE)["source"]) < 70_000
