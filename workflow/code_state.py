"""What a notebook's results depend on in code: its own cells, and every module that they reach.

The imports are followed without running anything. A face (`hsc_utils.<step>`) is lazy, so only
the rooms behind the names that are really used count. Comments and docstrings count for nothing.
"""

import ast
import hashlib
import json
from pathlib import Path

from hsc_utils.files import ROOT
from hsc_utils.provenance import code_digest


def of_notebook(name: str) -> str:
    """Hash a notebook's cells, without stored outputs, and what the modules it reaches do."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    code = "\n".join(
        source for source, cell in zip(sources, cells, strict=True) if cell["cell_type"] == "code"
    )
    digest = code_digest(*reached(imported_modules(code)))
    return hashlib.sha256("\0".join([*sources, digest]).encode()).hexdigest()


def of_module(name: str) -> str:
    """Hash what a module of the package, such as ``training.fit``, and its imports do."""
    return code_digest(*reached({name}))


def of_script(name: str) -> str:
    """Hash what the modules that a script of this folder reaches do."""
    return code_digest(*reached(imported_modules((ROOT / "workflow" / name).read_text())))


def reached(modules: set[str]) -> list[str]:
    """Name these modules and all that they import, directly or through others."""
    found, waiting = set(), set(modules)
    while waiting:
        found |= waiting
        waiting = {
            name for module in waiting for name in imported_modules(_path(module).read_text())
        } - found
    return sorted(found)


def imported_modules(code: str) -> frozenset[str]:
    """Name the modules of the package that some code uses, faces seen through."""
    tree = ast.parse(code)
    names = {}  # what the code calls a thing -> the thing's dotted name within the package
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hsc_utils":
            inside = node.module.split(".")[1:]
            names |= {alias.asname or alias.name: [*inside, alias.name] for alias in node.names}
    used = list(names.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in names:
            used.append([*names[node.value.id], node.attr])
    return frozenset().union(*map(_modules_behind, used))


def _modules_behind(dotted: list[str]) -> set[str]:
    """Say which module defines a name within the package; none for a bare face."""
    first, *rest = dotted
    if _path(first).exists():
        return {first}
    rooms = _face(first)
    return {rooms[name] for name in rest[:1] if name in rooms}


def _face(step: str) -> dict[str, str]:
    """Read which room stands behind each name of a step: the table of its face, and the rooms."""
    folder = ROOT / "hsc_utils" / step
    rooms = {path.stem: f"{step}.{path.stem}" for path in folder.glob("*.py")}
    call = next(
        node
        for node in ast.walk(ast.parse((folder / "__init__.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attach")
    )
    table = ast.literal_eval(call.args[2])
    return rooms | {name: rooms[room] for room, verbs in table.items() for name in verbs}


def _path(module: str) -> Path:
    return ROOT / "hsc_utils" / f"{module.replace('.', '/')}.py"
