"""Run one notebook in batch: check every parameter first, then hand it to papermill.

``python -m hsc_utils.run 04_cell_level_training --config workflow/config/demo.yaml -p seed 1``

Papermill alone accepts a misspelt parameter without a word; here it is an error.
"""

import argparse
import ast
import difflib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import get_args

import nbformat
import papermill
import pydantic
import yaml

from hsc_utils.files import ROOT, from_root, shown_path
from hsc_utils.study import Study, model_name

NOTEBOOKS_DIR = ROOT / "notebooks"

# What a configuration file holds beside the notebooks' sections: the study, a parameter of every
# notebook, and a section for workflow/Snakefile.
_SHARED = {"study", "workflow"}
# Where a notebook writes, as an attribute of the study; 03 and 04 write run directories.
_FOLDERS = {"01": "prepared", "02": "cells", "05": "comparison", "06": "grad_cam"}
_LEVELS = {"03": "image", "04": "cell"}

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


class ParameterError(ValueError):
    """A notebook, configuration file or parameter that does not fit, said in one sentence."""


def find_notebook(name: str) -> Path:
    """Return the path of a notebook given by name (with or without ``.ipynb``) or path."""
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS_DIR / f"{name}.ipynb"
    path = path if path.is_file() else NOTEBOOKS_DIR / path.name
    if not path.is_file():
        known = sorted(p.stem for p in NOTEBOOKS_DIR.glob("*.ipynb"))
        raise ParameterError(f"No notebook is called {name!r}{_nearest(path.stem, known)}")
    return path


def declared_parameters(notebook: Path) -> dict[str, tuple[type, object]]:
    """Read type and default of every parameter from the cell tagged ``parameters``.

    Parameters
    ----------
    notebook : Path
        A notebook whose parameters cell holds annotated literals, ``name: type = value``.

    Returns
    -------
    dict
        Name to ``(type, default)``, in the order of the cell.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    return {
        statement.target.id: (
            eval(ast.unparse(statement.annotation), {"__builtins__": {}}, _TYPES),
            ast.literal_eval(statement.value),
        )
        for statement in ast.parse(source).body
        if isinstance(statement, ast.AnnAssign)
    }


def check_parameters(
    declared: Mapping[str, tuple[type, object]], given: Mapping[str, object], where: str
) -> dict[str, object]:
    """Check names and types of parameters and return their values, converted.

    Parameters
    ----------
    declared : mapping
        From `declared_parameters`.
    given : mapping
        Name to value; text is converted where the declared type allows (``"1e-4"``). A
        mapping need name only the entries that differ from the default's.
    where : str
        Where the values were given, for the message.

    Raises
    ------
    ParameterError
        For an unknown name (with the nearest known one) or a value of the wrong type.
    """
    checked = {}
    for name, value in given.items():
        if name not in declared:
            raise ParameterError(f"Unknown parameter {name!r} in {where}{_nearest(name, declared)}")
        expected, default = declared[name]
        if isinstance(value, Mapping) and isinstance(default, Mapping) and default:
            for entry in value:
                if entry not in default:
                    raise ParameterError(
                        f"Unknown entry {entry!r} of {name!r} in {where}{_nearest(entry, default)}"
                    )
            value = {**default, **value}
        try:
            # Strict, except for text: YAML reads 1e-4 as text.
            checked[name] = pydantic.TypeAdapter(expected).validate_python(
                value, strict=not isinstance(value, str)
            )
        except pydantic.ValidationError as error:
            type_name = getattr(expected, "__name__", None)
            type_name = str(expected) if get_args(expected) or not type_name else type_name
            raise ParameterError(
                f"Parameter {name!r} in {where} must be {type_name}, not {value!r}."
            ) from error
    return checked


def _nearest(name: str, known: Sequence[str] | Mapping) -> str:
    """Finish a sentence about an unknown name: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}."


def read_config(path: str | Path, notebook: str) -> dict[str, object]:
    """Return one notebook's section of a configuration file, with the file's ``study``.

    Raises
    ------
    ParameterError
        If the file is missing, is no YAML mapping, or has a section of unknown name.
    """
    path = from_root(path)
    try:
        sections = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ParameterError(
            f"The configuration file {shown_path(path)} does not exist."
        ) from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{shown_path(path)} is not valid YAML: {error}") from error
    if not isinstance(sections, dict):
        raise ParameterError(f"{shown_path(path)} must map notebook names to parameters.")
    known = sorted({p.stem for p in NOTEBOOKS_DIR.glob("*.ipynb")} | _SHARED)
    for section in sections:
        if section not in known:
            raise ParameterError(
                f"Unknown section {section!r} in {shown_path(path)}{_nearest(section, known)}"
            )
    study = {"study": sections["study"]} if "study" in sections else {}
    return study | (sections.get(notebook) or {})


def parse_command_line_values(
    declared: Mapping[str, tuple[type, object]], pairs: Sequence[tuple[str, str]]
) -> dict[str, object]:
    """Turn ``-p NAME VALUE`` texts into values: text stays text, all else is read as YAML."""
    values = {}
    for name, text in pairs:
        expected = declared.get(name, (str, None))[0]
        kinds = {expected, *get_args(expected)}
        if NoneType in kinds and text in {"null", "None", ""}:
            values[name] = None
        else:
            values[name] = text if str in kinds and expected != list[str] else yaml.safe_load(text)
    return values


def output_directory(notebook: str, parameters: Mapping[str, object]) -> Path:
    """Return where a notebook writes, from its name and its complete set of parameters."""
    study, number = Study(parameters["study"]), notebook[:2]
    if number in _LEVELS:
        model = model_name(parameters["architecture"], parameters["channels"])
        return study.run(_LEVELS[number], model, parameters["seed"]).directory
    return getattr(study, _FOLDERS.get(number, "root"))


def run_notebook(name: str, config: str | Path | None, pairs: Sequence[tuple[str, str]]) -> Path:
    """Execute a notebook with checked parameters and keep the executed copy.

    Parameters
    ----------
    name : str
        Notebook name, such as ``04_cell_level_training``.
    config : path or None
        YAML file whose section of that name holds parameters.
    pairs : sequence of (name, text)
        Parameters from the command line; they win over the file's.

    Returns
    -------
    Path
        The executed notebook, in the directory that the step writes.

    Raises
    ------
    ParameterError
        Before anything runs, if a parameter does not fit.
    papermill.PapermillExecutionError
        If a cell fails; the half-executed notebook is kept as ``<name>.failed.ipynb``.
    """
    notebook = find_notebook(name)
    declared = declared_parameters(notebook)
    given = {}
    if config is not None:
        section = read_config(config, notebook.stem)
        given |= check_parameters(declared, section, f"{shown_path(config)} for {notebook.stem}")
    on_command_line = parse_command_line_values(declared, pairs)
    given |= check_parameters(declared, on_command_line, f"-p for {notebook.stem}")

    complete = {key: default for key, (_, default) in declared.items()} | given
    executed = output_directory(notebook.stem, complete) / notebook.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    unfinished = executed.with_name(f".{notebook.name}")
    failed = executed.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        _execute(notebook, unfinished, given)
    except papermill.PapermillExecutionError:
        unfinished.replace(failed)
        raise
    return unfinished.replace(executed)


def _execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Call papermill; start again once if the kernel died before it answered.

    Kernels that start at the same moment sometimes choose the same port.
    """
    for last_attempt in (False, True):
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=dict(parameters),
                cwd=str(ROOT),
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                # Its warning about connections within this machine means nothing here.
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )
            return
        except RuntimeError as error:
            if last_attempt or "before replying to kernel_info" not in str(error):
                raise
            print("The notebook's kernel did not start; trying once more.", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hsc_utils.run", description=__doc__)
    parser.add_argument("notebook", help="name, such as 04_cell_level_training")
    parser.add_argument("--config", help="YAML file with one section of parameters a notebook")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="one parameter; may be repeated, and wins over the file",
    )
    options = parser.parse_args(arguments)
    # A moving bar means nothing in a stored notebook: steps print lines instead.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Papermill takes "str | None" for no declaration and warns; the names are checked above.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        executed = run_notebook(options.notebook, options.config, options.parameters)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except papermill.PapermillExecutionError as error:
        print(f"error in {options.notebook}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    print(f"wrote {shown_path(executed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
