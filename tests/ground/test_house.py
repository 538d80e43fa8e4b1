"""The house's plan: imports point one way, and steps call each other at the door."""

import ast
from pathlib import Path

import pytest

from hsc_utils.files import ROOT

PACKAGE = ROOT / "hsc_utils"
STEPS = ("preparation", "detection", "training", "comparison", "explanation", "shortcuts")
STEPS += ("new_images", "new_study")
GROUND = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
ROOMS = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def imported(path: Path) -> set[str]:
    """Return what a module imports of this package, such as ``files`` or ``detection.cells``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} | {name for name in deeper if is_module(name)}
    names = {name.removeprefix("hsc_utils.") for name in names if name.startswith("hsc_utils.")}
    return names


def is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").exists()


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way_and_go_through_the_door(path):
    own = path.parent.name if path.parent != PACKAGE else ""
    for name in imported(path):
        step, _, room = name.partition(".")
        if step == own or step in GROUND:
            continue
        assert own, f"{path.name} lies on the ground floor, but imports the step {step}"
        assert not room, f"{path} enters {name}: call the face of {step} instead"
        assert own in STEPS, f"{path} imports {step}, but the simulator stands on the ground alone"
        assert STEPS.index(step) < STEPS.index(own), f"{path}: {step} comes after {own}"


@pytest.mark.parametrize("step", [*STEPS, "simulation"])
def test_every_verb_of_a_face_exists(step):
    face = __import__(f"hsc_utils.{step}", fromlist=["x"])
    assert dir(face)
    for verb in dir(face):
        assert getattr(face, verb).__doc__ or verb.isupper()
