"""Build the Jupyter Book of the study that a configuration file names, ``build_book.py CONFIG``.

Pages of prose, pages that the study wrote and executed notebooks are put side by side in a scratch
folder, so that the sources stay clean and any study can be published with the same pages. A
simulated study may tell what was planted, ``truth/planted.md`` with ``planted*.png`` beside it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import plan
import yaml

from hsc_utils.files import ROOT
from hsc_utils.study import Study, failure_of


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


def copy_pages(study: Study, source: Path) -> None:
    """Copy the pages that a study wrote to the book's own, with a place in the contents."""
    for name in ("claims.md", "tables.md"):
        shutil.copy(study.tables / name, source)
    overview = study.root / "overview.png"
    if overview.exists():
        shutil.copy(overview, source / "pipeline.png")
    else:  # never another study's picture
        (source / "pipeline.png").unlink()
        index = source / "index.md"
        shown = re.sub(r"```{image} pipeline.*?```\n", "", index.read_text(), flags=re.DOTALL)
        index.write_text(shown)
    if not (planted := study.truth / "planted.md").exists():
        return
    for path in [planted, *study.truth.glob("planted*.png")]:
        shutil.copy(path, source)
    contents = yaml.safe_load((source / "_toc.yml").read_text())
    part = next(part for part in contents["parts"] if {"file": "claims"} in part["chapters"])
    part["chapters"].insert(part["chapters"].index({"file": "claims"}) + 1, {"file": "planted"})
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))


def build(output: Path, study: Study, notebooks: list[Path]) -> None:
    """Render pages and notebooks as HTML into a folder, warnings being errors."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "book"
        shutil.copytree(ROOT / "book", source)
        shutil.copy(ROOT / "data" / "README.md", source / "data_card.md")
        copy_pages(study, source)
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
    build(study.book, study, plan.chapters(sys.argv[1]))
