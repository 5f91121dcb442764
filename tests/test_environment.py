"""The dependencies are stated in pyproject.toml; environment.yml and the Makefile agree with it."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from grader.paths import ROOT

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def _project() -> dict[str, Requirement]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {r.name: r for r in map(Requirement, data["project"]["dependencies"])}


def _conda() -> dict[str, str]:
    data = yaml.safe_load((ROOT / "environment.yml").read_text())
    lines = [line for line in data["dependencies"] if isinstance(line, str)]
    return {re.split(r"[=<>]", line)[0]: line for line in lines}


def _pinned_torch() -> Version:
    found = re.search(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return Version(found[1])


def test_conda_and_pip_ask_for_the_same():
    conda = _conda()
    for name, requirement in _project().items():
        line = conda.pop(CONDA_NAMES.get(name, name))
        if name != "torch":
            assert line.endswith(str(requirement.specifier)), line
    assert set(conda) == {"python", "pip"}


def test_python_version_agrees():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert _conda()["python"] == f"python{data['project']['requires-python']}"


def test_torch_is_pinned_where_environments_are_made_and_wide_where_the_package_asks():
    assert _conda()["pytorch"] == f"pytorch={_pinned_torch()}"
    accepts = _project()["torch"].specifier
    assert _pinned_torch() in accepts
    assert Version("2.6.0") in accepts


def test_conda_s_pip_lines_are_lines_that_pip_reads(tmp_path):
    """conda hands them to pip as a requirements file, where most options are not allowed."""
    from pip._internal.network.session import PipSession
    from pip._internal.req import parse_requirements

    data = yaml.safe_load((ROOT / "environment.yml").read_text())
    (lines,) = (line["pip"] for line in data["dependencies"] if isinstance(line, dict))
    file = tmp_path / "requirements.txt"
    file.write_text("\n".join(lines))
    (found,) = parse_requirements(str(file), session=PipSession())
    assert (found.requirement, found.is_editable) == (".", True)


def _devcontainer() -> dict[str, Any]:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    return json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))


def test_the_devcontainer_makes_the_environment_that_make_makes():
    found = _devcontainer()
    assert found["hostRequirements"]["gpu"] == "optional"
    assert "make start" in found["postCreateCommand"]
    python = re.search(r"python:(\d+\.\d+)", found["image"])[1]
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert Version(python) in Requirement(f"x{data['project']['requires-python']}").specifier
    interpreter = found["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith("/.venv/bin/python")
