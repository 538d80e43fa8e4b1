"""Heavy libraries wait until something needs them: each costs every notebook half a second or more.

Held by their names rather than by time, which depends on the machine.
"""

import ast
import json
import subprocess
import sys

import pytest

from hsc_utils.files import ROOT
from hsc_utils.run import NOTEBOOKS_DIR


def loaded_by(code: str) -> set[str]:
    """Return the names of all modules that a new Python has loaded after some code."""
    code += "\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def names_of(number: str) -> str:
    """Return code that imports what a notebook imports, and looks up each verb that it calls."""
    (notebook,) = NOTEBOOKS_DIR.glob(f"{number}_*.ipynb")
    cells = json.loads(notebook.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    nodes = list(ast.walk(ast.parse(code)))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {
        alias.asname or alias.name
        for node in imports
        if getattr(node, "module", "").startswith("hsc_utils")
        for alias in node.names
    }
    verbs = {
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in ours
    }
    assert ours
    assert verbs
    return "\n".join([*map(ast.unparse, imports), *sorted(verbs)])


@pytest.mark.parametrize(
    ("number", "waits"),
    [
        ("01", {"torch", "seaborn", "sklearn", "scipy.stats"}),
        ("02", {"torch", "sklearn", "seaborn", "scipy.stats"}),
        ("04", {"lightning", "seaborn"}),
        ("05", {"torch", "seaborn", "sklearn", "scipy.stats"}),
    ],
)
def test_a_notebook_loads_no_heavy_library_before_it_is_used(number, waits):
    loaded = loaded_by(names_of(number))
    assert "pandas.core" in loaded
    early = waits & loaded
    assert not early


def test_a_batch_run_loads_only_what_starts_a_notebook():
    # as a program, up to the point at which papermill starts the kernel
    loaded = loaded_by(
        "import runpy, sys\n"
        "sys.argv = ['run', '--help']\n"
        "try:\n"
        "    runpy.run_module('hsc_utils.run', run_name='__main__')\n"
        "except SystemExit:\n"
        "    import papermill\n"
        "    papermill.execute_notebook\n"
    )
    assert {"papermill.execute", "jsonschema.validators"} <= loaded
    early = {"pandas.core", "lark", "IPython", "torch"} & loaded
    assert not early
