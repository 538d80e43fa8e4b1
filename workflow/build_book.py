"""Build the Jupyter Book from executed notebooks, ``build_book.py OUTPUT NOTEBOOK…``.

Pages and notebooks are put side by side in a scratch folder, so that the sources stay clean
and any set of results can be published with the same pages.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def folded(path: Path) -> nbformat.NotebookNode:
    """Read an executed notebook with its code folded away, one click from the reader."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    return notebook


def build(output: Path, notebooks: list[Path]) -> None:
    """Render pages and notebooks as HTML into a folder, warnings being errors."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "book"
        shutil.copytree(ROOT / "book", source)
        shutil.copy(ROOT / "data" / "README.md", source / "data_card.md")
        (source / "notebooks").mkdir()
        for notebook in notebooks:
            nbformat.write(folded(notebook), source / "notebooks" / notebook.name)
        command = [*("jupyter-book", "build", "--warningiserror", "--keep-going"), str(source)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            sys.exit(f"The book could not be built:\n{finished.stdout}\n{finished.stderr}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(source / "_build" / "html", output)


if __name__ == "__main__":
    build(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
