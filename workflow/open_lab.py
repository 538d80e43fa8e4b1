"""Lay out the notebooks for one study, ``open_lab.py CONFIG``, and print their folder.

Each notebook of the study is copied with its parameters; a copy that is there already is somebody's
work and is left alone.
"""

import sys

import nbformat
import papermill
import plan

from hsc_utils.files import atomic_path, from_caller
from hsc_utils.run import ParameterError, find_notebook

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name a configuration, such as workflow/config/mine.yaml")
    config = from_caller(sys.argv[1])
    try:
        study = plan.study_of(config)
        folder = study.root / "notebooks"
        for name in plan.notebooks_of(config):
            copy = folder / f"{name}.ipynb"
            if not copy.exists():
                notebook = papermill.iorw.load_notebook_node(str(find_notebook(name)))
                settings = plan.settings_of(config, name) | {"study": str(study.root)}
                notebook = papermill.parameterize.parameterize_notebook(notebook, settings)
                for cell in notebook.cells:
                    if cell.cell_type == "code":  # those of the demo
                        cell.outputs, cell.execution_count = [], None
                with atomic_path(copy) as temporary:
                    nbformat.write(notebook, temporary)
    except ParameterError as error:
        sys.exit(f"error: {error}")
    print(folder)
