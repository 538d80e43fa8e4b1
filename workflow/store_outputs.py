"""Store a study's outputs in notebooks/, its pages and its overview in book/, for the web.

``store_outputs.py CONFIG`` takes executed copies, whose code is that of the sources, drops what
papermill added to them, and makes their pictures small enough for a repository.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import plan
from book_pages import lightened
from build_book import STORED, gather

from hsc_utils.files import ROOT, shown_path
from hsc_utils.run import NOTEBOOKS_DIR
from hsc_utils.study import failure_of


def store(executed: Path) -> None:
    """Write one executed notebook over its source, as the source would look run by hand."""
    notebook = nbformat.read(executed, as_version=4)
    source = nbformat.read(NOTEBOOKS_DIR / executed.name, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in notebook.cells] != [cell.source for cell in source.cells]:
        sys.exit(f"{executed.name} was executed from another version: run make demo first.")
    notebook.metadata = source.metadata
    count = 0
    for cell, original in zip(notebook.cells, source.cells, strict=True):
        cell.metadata, cell.id = original.metadata, original.id
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = merged(cell.outputs)
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    nbformat.write(lightened(notebook), NOTEBOOKS_DIR / executed.name)


def merged(outputs: list) -> list:
    """Join printed lines that follow each other into one output."""
    joined = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def check_complete(executed: Sequence[Path], overview: Path) -> None:
    """Refuse to store half a study: name what is not there, and the step's own reason."""
    reasons = {path: failure_of(path.parent) for path in executed}
    status = overview.with_name("overview.status.json")
    reasons[overview] = json.loads(status.read_text())["failed"] if status.exists() else None
    missing = [
        f"{shown_path(path)} ({reason or 'not made yet'})"
        for path, reason in reasons.items()
        if reason or not path.exists()  # of a failed step an earlier result may lie there
    ]
    if missing:
        sys.exit(
            f"error: nothing is stored, since these are missing or failed: {'; '.join(missing)}. "
            "The same command tries them again."
        )


if __name__ == "__main__":
    notebooks, study = plan.chapters(sys.argv[1]), plan.study_of(sys.argv[1])
    check_complete(notebooks, study.root / "overview.png")
    for notebook in notebooks:
        store(notebook)
    shutil.rmtree(STORED, ignore_errors=True)
    gather(study, plan.carded_runs(sys.argv[1]), STORED)
    shutil.move(STORED / "pipeline.png", ROOT / "book" / "pipeline.png")
