"""The notebooks: their shape, their stored outputs, and a run of all through nbval."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from hsc_utils import run
from hsc_utils.files import ROOT
from hsc_utils.simulation import write_demo

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_all_are_there():
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(1, 9)]


@each_notebook
def test_shape(path):
    cells = code_cells(path)
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert len(cells) <= 16
    assert len(run.declared_parameters(path)) <= 19
    for cell in cells:
        tree = ast.parse(cell.source)
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree))
        assert "sys.path" not in cell.source
        if cell not in tagged:
            assert len(cell.source.splitlines()) <= 20, cell.source
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.AnnAssign), "parameters are annotated literals only"
        lines = tagged[0].source.splitlines()[statement.lineno - 1 : statement.end_lineno]
        assert any("#" in line for line in lines), f"say what {statement.target.id} is"


@each_notebook
def test_stored_outputs(path):
    """A reader on the web sees results: made by this code, labelled, free of machine paths."""
    cells = code_cells(path)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    text = str(outputs)
    assert "Simulated demo data" in text
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)
    assert path.stat().st_size < 1_000_000


@each_notebook
def test_demo_settings_are_the_defaults(path):
    """What a reader runs in JupyterLab is what `make demo` runs."""
    declared = run.declared_parameters(path)
    demo = run.read_config("workflow/config/demo.yaml", path.stem)
    assert demo == {name: declared[name][1] for name in demo}


@each_notebook
def test_paper_settings_fit(path):
    declared = run.declared_parameters(path)
    section = run.read_config("workflow/config/paper.yaml", path.stem)
    assert run.check_parameters(declared, section, "paper.yaml") == section
    assert not any("results/demo" in str(value) for value in section.values())
    where = {name for name, (_, default) in declared.items() if "results/demo" in str(default)}
    assert where == {"study"}, "every other folder lies in the study, or is named"


COUNTS = {"LT-HSC": 6, "ST-HSC": 6, "MPP": 6}
STEPS = yaml.safe_load((Path(__file__).parent / "tiny.yaml").read_text())


@pytest.fixture(scope="module")
def tiny_notebooks(tmp_path_factory):
    """Copies of the notebooks whose parameters are small, and whose study is private."""
    folder = tmp_path_factory.mktemp("tiny")
    write_demo(folder / "raw", folder / "truth", counts=COUNTS, size=320, workers=1)
    copies = []
    for step, tiny in STEPS.items():
        source = ROOT / "notebooks" / f"{step.split()[0]}.ipynb"
        given = run.check_parameters(run.declared_parameters(source), tiny, "tiny.yaml")
        notebook = papermill.parameterize.parameterize_notebook(
            papermill.iorw.load_notebook_node(str(source)), {"study": str(folder), **given}
        )
        copies.append(folder / f"{step.replace(' ', '_')}.ipynb")
        nbformat.write(notebook, copies[-1])
    return copies


def test_run_through_nbval(tiny_notebooks):
    """One after the other, since each reads what the one before wrote."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-x", "-q"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    folder = tiny_notebooks[0].parent
    finished = subprocess.run(
        [*command, *map(str, tiny_notebooks)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    cells = sum(len(code_cells(path)) for path in tiny_notebooks)
    assert f"{cells} passed" in finished.stdout
    for result in (
        *("comparison/comparison.csv", "grad_cam/cam.csv", "shortcuts/audit.csv"),
        *("new_images/new_day/predictions.csv", "runs/cell/resnet18/seed0/MODEL_CARD.md"),
    ):
        assert (folder / result).exists()
