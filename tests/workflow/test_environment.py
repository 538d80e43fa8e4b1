"""The three ways to install must give the same packages."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from hsc_utils.files import ROOT

LOCK = (ROOT / "requirements.txt").read_text()
PINS = {
    name.lower(): Version(version)
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", LOCK, flags=re.MULTILINE)
}


def test_lock_satisfies_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = project["dependencies"] + project["optional-dependencies"]["test"]
    for requirement in map(Requirement, direct):
        assert requirement.name in PINS, f"{requirement.name} is not in requirements.txt: make lock"
        assert PINS[requirement.name] in requirement.specifier


def test_lock_is_hashed_and_names_no_index():
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)
    pinned = [block for block in blocks if "==" in block.split("\n", 1)[0]]
    assert len(pinned) == len(PINS) > 100
    assert all("--hash=sha256:" in block for block in pinned)
    assert not re.search(r"://|--index|--find-links", LOCK)


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = (ROOT / ".python-version").read_text().strip()
    assert f"python={python}" in conda
    assert pip == {"pip": ["--requirement requirements.txt"]}


def test_versions_of_python_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = (ROOT / ".python-version").read_text().strip()
    assert Version(f"{python}.1") in Requirement(f"python{project['requires-python']}").specifier


def test_readme_names_the_locked_torch():
    for page in ("README.md", "book/how_to_run.md"):
        for name, version in re.findall(
            r"\b(torch|torchvision)==([\d.]+)", (ROOT / page).read_text()
        ):
            assert PINS[name] == Version(version), page
