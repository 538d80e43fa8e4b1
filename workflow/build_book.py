"""Build the Jupyter Book of the study that a configuration file names, ``build_book.py CONFIG``.

Pages, the sweep's tables and executed notebooks are put side by side in a scratch folder, so that
the sources stay clean and any study can be published with the same pages.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import plan

from hsc_utils.files import ROOT
from hsc_utils.study import failure_of


def folded(path: Path) -> nbformat.NotebookNode:
    """Read an executed notebook with its code folded away, one click from the reader."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    return notebook


def stand_in(notebook: Path, reason: str) -> str:
    """Write the page of a notebook that failed."""
    title = nbformat.read(ROOT / "notebooks" / notebook.name, as_version=4).cells[0].source
    return (
        f"{title.splitlines()[0]}\n\nThis step has no results here, because it failed:\n\n"
        f"```text\n{reason}\n```\n\nThe same command tries it again.\n"
    )


def build(output: Path, tables: Path, notebooks: list[Path]) -> None:
    """Render pages and notebooks as HTML into a folder, warnings being errors."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "book"
        shutil.copytree(ROOT / "book", source)
        shutil.copy(ROOT / "data" / "README.md", source / "data_card.md")
        shutil.copy(tables, source / "tables.md")
        (source / "notebooks").mkdir()
        for notebook in notebooks:
            page = source / "notebooks" / notebook.name
            reason = failure_of(notebook.parent)
            if not notebook.exists() or plan.unreadable(notebook):
                reason = reason or "its executed notebook is missing or damaged"
            if reason:
                page.with_suffix(".md").write_text(stand_in(notebook, reason))
            else:
                nbformat.write(folded(notebook), page)
        command = ["jupyter-book", "build", "--warningiserror", "--keep-going", str(source)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            sys.exit(f"The book could not be built:\n{finished.stdout}\n{finished.stderr}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(source / "_build" / "html", output)


if __name__ == "__main__":
    study = plan.study_of(sys.argv[1])
    build(study.book, study.tables / "tables.md", plan.chapters(sys.argv[1]))
