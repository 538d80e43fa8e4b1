"""Run one notebook in batch: check every parameter first, then hand it to papermill.

``python -m hsc_utils.run 04_cell_level_training --config workflow/config/demo.yaml -p seed 1``

Papermill alone accepts a misspelt parameter without a word; here it is an error.
"""

import argparse
import ast
import difflib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin

INTERRUPTED = 130


def interrupted() -> int:
    """Say in one sentence that the user interrupted; return the exit status of that."""
    print("\nInterrupted; start again to continue.", file=sys.stderr, flush=True)
    return INTERRUPTED


def use_writable_home() -> None:
    """Give Jupyter, IPython and Matplotlib a home for this run if the user's cannot be written."""
    home = Path(os.environ.get("HOME", "/"))
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
        if (weights := home / ".cache" / "torch").is_dir():
            os.environ.setdefault("TORCH_HOME", str(weights))  # downloaded ones can still be read


if __name__ == "__main__":  # before the libraries, which take seconds to load and look for a home
    use_writable_home()
    signal.signal(signal.SIGINT, lambda *_: os._exit(interrupted()))
    # As if it were not installed: papermill's libraries can do without this grammar of
    # international addresses, which takes a second to load and which no notebook needs.
    sys.modules["rfc3987_syntax"] = None

import lazy_loader
import pydantic
import yaml

from hsc_utils.files import ROOT, from_caller, from_root, shown_path
from hsc_utils.study import IMBALANCE, NORMALISATION, Study, model_name

papermill = lazy_loader.load("papermill")  # takes seconds, and checking needs none of it
NOTEBOOKS_DIR = ROOT / "notebooks"

# The section of a configuration file for workflow/Snakefile, as `declared_parameters` gives it.
WORKFLOW = {
    "seeds": (list[int], [0]),
    "image_models": (list[str], []),
    "cell_models": (list[str], []),
    "slices": (str | None, None),
    "cores_per_run": (dict, {"image": 1, "cell": 1, "explain": 1}),
    "gpus_per_run": (int, 0),
}
# What parameters may say that are one word of a few, in every notebook.
CHOICES = {
    "small_classes": ("error", "train"),
    "method": ("log", "dog", "doh"),
    "border": ("drop", "reflect"),
    "imbalance": IMBALANCE,
    "normalisation": NORMALISATION,
    "level": ("cell", "image"),
    "subset": ("train", "validation", "test"),
    "cell_stride": (32, 16, 8),
    "image_stride": (32, 16, 8),
}
# Parameters that name a file or folder; all but the study must be there when a notebook starts.
INPUTS = (
    "raw_dir",
    "truth_csv",
    "ready_cells_dir",
    "masks_dir",
    "detection_file",
    "new_images_dir",
)
# Where a notebook writes, as an attribute of the study; 03 and 04 write run directories, and 08
# into a folder of its own for each set of new images.
_FOLDERS = {
    "01": "prepared",
    "02": "cells",
    "05": "comparison",
    "06": "grad_cam",
    "07": "shortcuts",
    "08": "new_images",
}
_LEVELS = {"03": "image", "04": "cell"}

_NOTHING = ("", "~", "null", "Null", "NULL")  # how YAML writes none, without quotes
_LISTED, _WIDTH = 46, 100  # characters of a parameter with its default, and of a line, in a list
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


class ParameterError(ValueError):
    """A notebook, configuration file or parameter that does not fit, said in one sentence."""


def find_notebook(name: str) -> Path:
    """Return the path of a notebook given by name (with or without ``.ipynb``) or path."""
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS_DIR / f"{name}.ipynb"
    path = path if path.is_file() else NOTEBOOKS_DIR / path.name
    if not path.is_file():
        _check_known(path.stem, _notebooks(), f"No notebook is called {name!r}")
    return path


def _notebooks() -> dict[str, Path]:
    return {path.stem: path for path in sorted(NOTEBOOKS_DIR.glob("*.ipynb"))}


def _check_known(given: object, known: Collection, fault: str) -> None:
    """Refuse an unknown name: say the fault, and the nearest known one or all of them."""
    if given not in known:
        names = list(map(str, known))
        close = difflib.get_close_matches(given, names, 1, 0.5) if isinstance(given, str) else []
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}."
        raise ParameterError(f"{fault}; {hint}")


def _parameters_source(notebook: Path) -> str:
    """Return the text of the cell tagged ``parameters``."""
    cells = json.loads(notebook.read_text())["cells"]
    return "".join(
        next(c["source"] for c in cells if "parameters" in c["metadata"].get("tags", []))
    )


def declared_parameters(notebook: Path) -> dict[str, tuple[type, object]]:
    """Read ``name: type = value`` of every parameter from the cell tagged ``parameters``.

    Returned are type and default by name, in the order of the cell; a ParameterError refuses
    what is no notebook, or has no such cell.
    """
    try:
        return {
            statement.target.id: (
                eval(ast.unparse(statement.annotation), {"__builtins__": {}}, _TYPES),
                ast.literal_eval(statement.value),
            )
            for statement in ast.parse(_parameters_source(notebook)).body
            if isinstance(statement, ast.AnnAssign)
        }
    except (ValueError, LookupError, TypeError, StopIteration, SyntaxError) as error:
        raise ParameterError(
            f"{shown_path(notebook)} is damaged: it holds no cell of parameters that can be read "
            f"({type(error).__name__}). Take it again from the repository (git checkout)."
        ) from error


def list_parameters(notebook: Path) -> str:
    """Write a notebook's parameters for a reader: name, type, default and comment, aligned."""
    declared_parameters(notebook)  # says what is wrong with a damaged one
    # a type that the formatter broke over lines, such as class_names's, goes back into one
    joined = re.sub(r"\[\n\s+(\w+)\n\]", r"[\1]", _parameters_source(notebook))
    rows = [
        (line[2:3].upper() + line[3:], "") if line.startswith("# ") else ("  " + code, comment)
        for line in joined.splitlines()
        for code, _, comment in [line.partition("  # ")]
    ]
    width = min(max(len(code) for code, comment in rows if comment), _LISTED)
    lines = []
    for code, comment in rows:
        first, *others = textwrap.wrap(comment, _WIDTH - width - 2) or [""]
        if comment and len(code) > width:
            lines.append(code)
            code = ""
        lines.append(f"{code:{width}}  {first}".rstrip())
        lines += [f"{'':{width}}  {other}" for other in others]
    return "\n".join(lines)


def check_parameters(
    declared: Mapping[str, tuple[type, object]], given: Mapping[str, object], where: str
) -> dict[str, object]:
    """Check names and types of parameters and return their values, converted.

    Text, alone or in a list, is taken as written and converted where the declared type allows
    (``"1e-4"``). A mapping need name only the entries that differ from the default's, and a list
    of one need be no list. A ParameterError says what is wrong, and `where` it was given.
    """
    checked = {}
    for name, value in given.items():
        _check_known(name, declared, f"Unknown parameter {name!r} in {where}")
        expected, default = declared[name]
        kinds = (expected, *get_args(expected))
        if NoneType in kinds and value in ("", "null", "None", "~"):
            value = None
        elif expected is object and isinstance(value, str):
            value = yaml.safe_load(value)  # nothing tells what it should be
        elif isinstance(value, str) and value and list in map(get_origin, kinds):
            value = [value]
        elif isinstance(value, Mapping) and isinstance(default, Mapping) and default:
            for entry in value:
                _check_known(entry, default, f"Unknown entry {entry!r} of {name!r} in {where}")
            entries = {entry: (_type_of(usual), usual) for entry, usual in default.items()}
            value = default | check_parameters(entries, value, f"{name!r} in {where}")
        # Strict, except for text: a file and the command line hold nothing else.
        parts = value if isinstance(value, list) else [value]
        strict = not all(isinstance(part, str) for part in parts)
        adapter = pydantic.TypeAdapter(expected, config=pydantic.ConfigDict(allow_inf_nan=False))
        try:
            if value == "" != default:
                raise ValueError("nothing stands there")
            checked[name] = adapter.validate_python(value, strict=strict)
        except ValueError as error:
            type_name = expected.__name__ if isinstance(expected, type) else str(expected)
            raise ParameterError(
                f"Parameter {name!r} in {where} must be {type_name}, not {value!r}."
            ) from error
        if name in CHOICES:
            _check_known(checked[name], CHOICES[name], f"Unknown {name} {value!r} in {where}")
    return checked


def _type_of(value: object) -> type:
    """Return the type of an entry of a mapping, as its default shows it."""
    if isinstance(value, list):
        return list[type(value[0]) if value else str]
    return object if value is None else type(value)


class _AsWritten(yaml.SafeLoader):
    """Reads YAML without guessing: NO, 007 and 1e-4 stay text, and no name may come twice."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        pairs = list(node.value)
        names = [key.value for key, _ in pairs]
        if again := next((name for name in names if names.count(name) > 1), None):
            said = f"{again!r} stands there twice"
            raise yaml.constructor.ConstructorError("", None, said, node.start_mark)
        mapping = super().construct_mapping(node, deep)
        # Alone, an empty value or null is none; in a list it is a name like any other.
        plain = [(key, value) for key, value in pairs if getattr(value, "style", "") is None]
        return mapping | {key.value: None for key, value in plain if value.value in _NOTHING}


def read_sections(path: str | Path) -> dict[str, object]:
    """Check a whole configuration file and return what it holds.

    Returned are the ``study``, if the file names one, and the parameters given by section,
    converted. A ParameterError refuses a file that cannot be read, an unknown or wrong entry, and
    a second study. A relative path is anchored at the repository root.
    """
    path = from_root(path)
    shown = shown_path(path)
    try:
        sections = yaml.load(path.read_bytes(), _AsWritten)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        fault = "does not exist" if missing else f"cannot be read: {error.strerror}"
        raise ParameterError(f"The configuration file {shown} {fault}.") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{shown} is not valid YAML: {error}") from error
    if not isinstance(sections, dict):
        raise ParameterError(f"{shown} must map notebook names to parameters.")
    notebooks = _notebooks()
    checked, studies = {}, {}
    for section, content in sections.items():
        known = [*notebooks, "study", "workflow"]
        _check_known(section, known, f"Unknown section {section!r} in {shown}")
        if section == "study":
            studies |= check_parameters({"study": (str, "")}, {section: content}, shown)
            continue
        if not isinstance(content or {}, dict):
            raise ParameterError(f"{section} in {shown} must map names to values, not {content!r}.")
        declared = declared_parameters(notebooks[section]) if section in notebooks else WORKFLOW
        checked[section] = check_parameters(declared, content or {}, f"{shown} for {section}")
        if "study" in checked[section]:
            studies[section] = checked[section].pop("study")
    if len({from_root(study) for study in studies.values()}) > 1:
        raise ParameterError(
            f"{shown} names several studies: {', '.join(map(str, studies.values()))}. All its "
            "sections belong to one; name it once, at the top."
        )
    return ({"study": next(iter(studies.values()))} if studies else {}) | checked


def read_config(path: str | Path, section: str) -> dict[str, object]:
    """Return one section of a configuration file that `read_sections` accepts, with its study."""
    sections = read_sections(path)
    study = {"study": sections["study"]} if "study" in sections else {}
    return study | sections.get(section, {})


def parse_command_line_values(
    declared: Mapping[str, tuple[type, object]], pairs: Sequence[tuple[str, str]]
) -> dict[str, object]:
    """Turn ``-p NAME VALUE`` texts into values: ``[…]`` and ``{…}`` into lists and mappings."""
    values = {}
    for name, text in pairs:
        expected = declared.get(name, (str, None))[0]
        kinds = {get_origin(kind) or kind for kind in (expected, *get_args(expected))}
        structured = kinds & {list, dict} and text.lstrip()[:1] in ("[", "{")
        try:
            values[name] = yaml.load(text, _AsWritten) if structured else text
        except yaml.YAMLError as error:
            raise ParameterError(f"-p {name}: {text!r} is not valid YAML: {error}") from error
    return values


def check_inputs(parameters: Mapping[str, object]) -> None:
    """Raise ParameterError, saying where was looked, if a file or folder to read is not there."""
    for name in INPUTS:
        path = parameters.get(name)
        if path is not None and not from_root(path).exists():
            raise ParameterError(
                f"{name}: {shown_path(path)} does not exist. A relative path counts from your "
                "folder on the command line, and from the repository's in a configuration file."
            )


def check_simulation(parameters: Mapping[str, object]) -> None:
    """Raise ParameterError if the demo is to be simulated and other data are to be read."""
    if parameters.get("simulate_demo") and parameters.get("raw_dir") is not None:
        raise ParameterError(
            f"raw_dir: {shown_path(parameters['raw_dir'])} would be read, and simulate_demo makes "
            "the demo's acquisitions in the study, which nobody would read. For your own data set "
            "simulate_demo to false; for the demo leave raw_dir out."
        )


def output_directory(notebook: str, parameters: Mapping[str, object]) -> Path:
    """Return where a notebook writes, from its name and its complete set of parameters.

    A ParameterError refuses a `name` of new images that is not the name of one folder.
    """
    study, number = Study(parameters["study"]), notebook[:2]
    if number in _LEVELS:
        model = model_name(parameters["architecture"], parameters["channels"])
        return study.run(_LEVELS[number], model, parameters["seed"]).directory
    folder = getattr(study, _FOLDERS.get(number, "root"))
    if folder != study.new_images:
        return folder
    name = parameters["name"]
    if not name.strip() or name in (".", "..") or set("/{}") & set(name):
        raise ParameterError(
            f"name: {name!r} must be the name of one folder, which the results go to, such as "
            "'2026-06-01', without a slash or a brace."
        )
    return folder / name


def run_notebook(name: str, config: str | Path | None, pairs: Sequence[tuple[str, str]]) -> Path:
    """Execute a notebook with checked parameters and return the copy, in the step's folder.

    All of the configuration file is checked, and the notebook's section of it used; parameters
    (name, text) from the command line win. Relative paths count from the repository root in the
    file, and from the caller's folder otherwise. If a cell fails, the half-executed notebook is
    kept as ``<name>.failed.ipynb``.
    """
    notebook = find_notebook(name)
    declared = declared_parameters(notebook)
    given = {}
    if config is not None:
        section = read_config(from_caller(config), notebook.stem)
        given |= check_parameters(declared, section, f"{shown_path(config)} for {notebook.stem}")
    written = parse_command_line_values(declared, pairs)
    for key, value in check_parameters(declared, written, f"-p for {notebook.stem}").items():
        is_path = key in ("study", *INPUTS) and value is not None
        given[key] = from_caller(value) if is_path else value
    complete = {key: default for key, (_, default) in declared.items()} | given
    check_inputs(given)
    check_simulation(complete)
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
    except KeyboardInterrupt:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished.replace(executed)


def _execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Call papermill; start again once if the kernel died before it answered.

    Kernels that start at the same moment sometimes choose the same port.
    """
    # papermill fills braces in paths with parameters: doubled, they are braces again.
    paths = [str(p).replace("{", "{{").replace("}", "}}") for p in (notebook, output)]
    for last_attempt in (False, True):
        try:
            papermill.execute_notebook(
                *paths,
                parameters=dict(parameters),
                cwd=str(ROOT),
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                # Its warning about connections within this machine, and its end by Ctrl-C, mean
                # nothing here.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
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
    parser.add_argument("--list", action="store_true", help="show its parameters and run nothing")
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
    if sys.platform == "win32":
        print("error: Windows is not supported; use WSL, the Linux inside it.", file=sys.stderr)
        return 2
    # A moving bar means nothing in a stored notebook: steps print lines instead.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Papermill takes "str | None" for no declaration and warns; the names are checked above.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        if options.list:
            print(list_parameters(find_notebook(options.notebook)))
            return 0
        executed = run_notebook(options.notebook, options.config, options.parameters)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except papermill.PapermillExecutionError as error:
        print(f"error in {options.notebook}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError) as error:  # a full disk, a kernel that died
        print(f"error in {options.notebook}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted()
    print(f"wrote {shown_path(executed)}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # papermill ends its kernel
    sys.exit(main())
