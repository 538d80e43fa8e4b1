"""A study is a folder, a run is a folder in it: what lies where, and what a run was and gave.

The names of the files in a run directory are spelt here and nowhere else.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import lazy_loader
from safetensors import safe_open

from hsc_utils.files import from_root, shown_path, write_json

pd = lazy_loader.load("pandas")  # the workflow and `run` ask for folders and names only
ALL_CHANNELS = (0, 1, 2)
# every choice of the three slices: each alone, each pair, all
SLICES = tuple(
    "+".join(chosen) for size in (1, 2, 3) for chosen in itertools.combinations("012", size)
)
IMBALANCE = ("weights", "sampler", "none")
NORMALISATION = ("training", "imagenet")
SCHEDULE = ("constant", "one-cycle")
PRECISION = ("auto", "float32")
BATCH_NORM = ("running", "clean")
NEVER_RUN = "not trained yet, or interrupted"
# the largest that each range of the augmentation may be
_AUGMENTATION = {"flip": 1, "translation": 1, "rotation": 360, "zoom": 0.9}


class DamagedFileError(ValueError):
    """A file that this project wrote is empty, cut short or holds something else."""


class Study:
    """The folders of one data set's results.

    Parameters
    ----------
    root : path
        The study's own folder; a relative one is anchored at the repository root.

    Attributes
    ----------
    raw, truth : Path
        Simulated acquisitions and what is true of them; real ones lie where `raw_dir` says.
    prepared, cells, cache, comparison, grad_cam, shortcuts, new_images, tables, book : Path
        What each step writes.
    new_day : Path
        Simulated acquisitions of a day that no model of the demo was trained on.
    """

    def __init__(self, root: str | Path):
        self.root = from_root(root)
        self.raw, self.truth = self.root / "raw", self.root / "truth"
        self.prepared, self.cells = self.root / "prepared", self.root / "cells"
        self.cache, self.comparison = self.root / "cache", self.root / "comparison"
        self.grad_cam, self.shortcuts = self.root / "grad_cam", self.root / "shortcuts"
        self.new_images, self.new_day = self.root / "new_images", self.root / "new_day"
        self.tables, self.book = self.root / "tables", self.root / "book"

    def run(self, level: str, model: str, seed: int) -> "Run":
        """Return the run of a model (see `model_name`) at level ``image`` or ``cell``."""
        return Run(self.root / "runs" / level / model / f"seed{seed}")

    def finished_runs(self, level: str, model: str) -> list["Run"]:
        """Return the finished runs of a model, by seed."""
        folders = (self.root / "runs" / level / model).glob("seed*")
        runs = sorted(map(Run, folders), key=lambda run: run.seed)
        return [run for run in runs if run.failure is None]


# what training starts from, as a reader would say it; other names stay as they are
STARTS = {"none": "random weights", "imagenet": "ImageNet weights"}


def model_name(architecture: str, channels: Sequence[int] = ALL_CHANNELS) -> str:
    """Name a backbone and the slices it sees: ``resnet50``, or ``resnet50-slice0+2`` for fewer."""
    if tuple(channels) == ALL_CHANNELS:
        return architecture
    return f"{architecture}-slice{'+'.join(map(str, channels))}"


def parse_model_name(model: str) -> tuple[str, tuple[int, ...]]:
    """Return backbone and channels of a `model_name`."""
    architecture, _, slices = model.partition("-slice")
    return architecture, tuple(map(int, slices.split("+"))) if slices else ALL_CHANNELS


def model_words(model: str) -> str:
    """Write a `model_name` as the field does: ResNet-18, or ResNet-18 on slice 0."""
    backbone, _, subset = model.partition("-slice")
    name = re.sub(r"^(resnet|densenet)(\d+)$", r"\1-\2", backbone)
    name = name.replace("resnet", "ResNet").replace("densenet", "DenseNet")
    if not subset:
        return name
    return f"{name} on slice{'s' * ('+' in subset)} {subset.replace('+', ' and ')}"


@dataclass(frozen=True)
class TrainingSettings:
    """How one model is trained; the paper's values stand in ``workflow/config/paper.yaml``.

    Attributes
    ----------
    architecture : str
        Backbone, see `training.build_model`.
    weights : str
        ``imagenet``, ``none``, a path, or ``auto`` (see `training.starting_weights`).
    batch_norm : {"running", "clean"}
        Statistics that batch normalisation uses outside training. ``running``: torch's average
        over the batches of training, which are augmented and whose weights have moved since.
        ``clean``: estimated anew before each validation, on training samples as they are stored
        (Wu and Johnson 2021, arXiv 2105.07576), which a short training needs.
    seed : int
        Seed of the head, the order of samples and the augmentation.
    channels : tuple of int
        RGB channels (slices) the model sees.
    input_size : int
        Side of the model's input, in pixels.
    batch_size, max_epochs : int
        Samples a step, and the most epochs.
    patience : int
        Epochs without a lower validation loss after which training stops.
    learning_rate : float
        Adam's; the highest of a ``one-cycle``.
    schedule : {"constant", "one-cycle"}
        ``constant``: the paper's. ``one-cycle``: the rate rises and falls once over
        `max_epochs` (Smith and Topin 2019, arXiv 1708.07120), for short trainings.
    precision : {"auto", "float32"}
        ``auto``: 16 bits where the hardware computes with them, so that results differ between
        machines. ``float32``: the same on any.
    imbalance : {"weights", "sampler", "none"}
        ``weights``: classes weighted in the loss by inverse frequency; ``sampler``: classes
        drawn equally often.
    normalisation : {"training", "imagenet"}
        ``training``: mean and spread of the training subset; ``imagenet``: ImageNet's.
    flip, translation, rotation, zoom : float
        Ranges of the augmentation, see `training.augment`.
    """

    architecture: str
    weights: str
    input_size: int
    batch_size: int
    max_epochs: int
    patience: int
    learning_rate: float
    schedule: str = "constant"
    precision: str = "auto"
    batch_norm: str = "running"
    seed: int = 0
    channels: tuple[int, ...] = ALL_CHANNELS
    imbalance: str = "weights"
    normalisation: str = "training"
    flip: float = 0.5
    translation: float = 0.1
    rotation: float = 90.0
    zoom: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("input_size", "batch_size", "max_epochs", "patience", "learning_rate"):
            if not getattr(self, name) > 0:  # NaN neither
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0.")
        for name, most in {"seed": 2**32 - 1, **_AUGMENTATION}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)} is not from 0 to {most}.")
        choices = {"imbalance": IMBALANCE, "normalisation": NORMALISATION}
        choices |= {"schedule": SCHEDULE, "precision": PRECISION, "batch_norm": BATCH_NORM}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}."
                )
        seen = set(self.channels)
        if not seen or not seen <= set(ALL_CHANNELS) or len(seen) < len(self.channels):
            raise ValueError(
                f"channels: {list(self.channels)} must name one to three of 0 (red), 1 (green) "
                "and 2 (blue), each once."
            )

    @property
    def augmentation(self) -> dict[str, float]:
        """The ranges that `training.augment` takes."""
        return {key: getattr(self, key) for key in _AUGMENTATION}


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingSettings):
    """Everything that decides a run, and what its model needs to be used: ``config.json``.

    Attributes
    ----------
    level : {"image", "cell"}
        What a sample is.
    class_names : tuple of str
        In the order of the logits.
    weights_used : str
        What training started from: ``weights`` with ``auto`` settled.
    mean, std : tuple of float
        By channel seen, in [0, 1].
    samples_sha256 : str
        Of the table of samples and their pixels.
    code_sha256 : str
        Of the code that trained (`provenance.code_digest`).
    """

    level: str
    class_names: tuple[str, ...]
    weights_used: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples_sha256: str
    code_sha256: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("class_names", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def model(self) -> str:
        """The `model_name`."""
        return model_name(self.architecture, self.channels)

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """Read what `write` wrote; a file with other entries is refused by their names."""
        content = _read_own(path, _read_mapping)
        names = {field.name for field in fields(cls)}
        if odd := sorted(names ^ set(content)):
            raise DamagedFileError(
                f"{shown_path(path)} does not describe a run of this version: it lacks or adds "
                f"{', '.join(odd)}. Train that model again."
            )
        return cls(**content)


class Run:
    """One trained model's directory, ``…/<level>/<model>/seed<k>``; files are read when asked for.

    Attributes
    ----------
    directory : Path
        Anchored at the repository root.
    level, model, seed : str, str, int
        As the directory's place says.
    config_file, history_file, predictions_file, scores_file, weights_file, record_file : Path
        The results, in the order they are made.
    baselines_file : Path
        What predictors that need no network reach on the samples judged.
    calibration_file : Path
        The temperature that makes its probabilities honest.
    folds_file : Path
        Predictions of every sample by a network that has not seen its image, if asked for.
    passport_file, features_file : Path
        What the model needs to be used on new images, and what its training cells look like to it.
    card_file : Path
        The model card.
    status_file : Path
        How the last attempt in batch ended.
    checkpoints : Path
        State of unfinished training.
    successor : Path
        Run directory of a model in training that is to replace a finished one.
    """

    def __init__(self, directory: str | Path):
        self.directory = from_root(directory)
        self.config_file = self.directory / "config.json"
        self.history_file = self.directory / "history.csv"
        self.predictions_file = self.directory / "predictions.parquet"
        self.scores_file = self.directory / "metrics.json"
        self.weights_file = self.directory / "model.safetensors"
        self.record_file = self.directory / "provenance.json"
        self.baselines_file = self.directory / "baselines.csv"
        self.calibration_file = self.directory / "calibration.json"
        self.folds_file = self.directory / "folds.parquet"
        self.passport_file = self.directory / "new_images.json"
        self.features_file = self.directory / "features.safetensors"
        self.card_file = self.directory / "MODEL_CARD.md"
        self.status_file = self.directory / "status.json"
        self.checkpoints = self.directory / "checkpoints"
        self.successor = self.directory / "successor"

    def __str__(self) -> str:
        return shown_path(self.directory)

    @property
    def level(self) -> str:
        """``image`` or ``cell``."""
        return self.directory.parts[-3]

    @property
    def model(self) -> str:
        """The `model_name`."""
        return self.directory.parts[-2]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.directory.name.removeprefix("seed"))

    @property
    def results(self) -> tuple[Path, ...]:
        """The files of a finished run."""
        return (
            self.config_file,
            self.history_file,
            self.predictions_file,
            self.scores_file,
            self.calibration_file,
            self.weights_file,
            self.record_file,
        )

    @property
    def failure(self) -> str | None:
        """Why there are no results: the last attempt's reason, `NEVER_RUN`, or a damaged file."""
        reason = failure_of(self.directory) or (None if self.record_file.exists() else NEVER_RUN)
        unread = self.weights_file, self.history_file, self.calibration_file, self.folds_file
        return reason or next(iter(self.damaged(*unread)), None)

    def check_finished(self) -> None:
        """Raise FileNotFoundError, naming what is missing, unless all results are there."""
        for file in self.results:
            if not file.exists():
                raise FileNotFoundError(
                    f"{self} holds no {file.name}: the run is missing or not finished. Train it "
                    "first with notebook 03 (images) or 04 (cells)."
                )

    def damaged(self, *passed_over: Path) -> dict[str, Path]:
        """Map what is wrong to each result that is there and cannot be read."""
        found = {}
        for file in self._readers:
            if file.exists() and file not in passed_over:
                try:
                    self._read(file)
                except DamagedFileError as error:
                    found[str(error)] = file
        return found

    @property
    def _readers(self) -> dict[Path, Callable]:
        """How each result is read."""
        return {
            self.config_file: RunConfig.read,
            self.history_file: _read_history,
            self.predictions_file: pd.read_parquet,
            self.scores_file: _read_scores,
            self.calibration_file: _read_calibration,
            self.folds_file: pd.read_parquet,
            self.weights_file: _check_safetensors,
            self.record_file: _read_record,
        }

    def _read(self, file: Path) -> object:
        if not file.exists():
            self.check_finished()
        return _read_own(file, self._readers[file])

    @property
    def config(self) -> RunConfig:
        """What the run was trained with."""
        return self._read(self.config_file)

    @property
    def history(self) -> "pd.DataFrame":
        """One row per epoch."""
        return self._read(self.history_file)

    @property
    def predictions(self) -> "pd.DataFrame":
        """One row per sample: ``id``, ``image_id``, ``class``, ``split``, ``group``, ``p_…``."""
        table = self._read(self.predictions_file)
        return table if "group" in table else table.assign(group="")

    @property
    def scores(self) -> dict:
        """By subset, what `metrics.score` gives; that of `judged_on` with ``intervals``."""
        return self._read(self.scores_file)

    @property
    def calibration(self) -> dict:
        """The ``temperature`` that calibrates probabilities, and what it does: see `training`."""
        return self._read(self.calibration_file)

    @property
    def folds(self) -> "pd.DataFrame | None":
        """Predictions by networks that saw nothing of a sample's ``fold``; None if not asked for.

        Columns as in `predictions`; its ``attrs`` say how the folds were made.
        """
        return self._read(self.folds_file) if self.folds_file.exists() else None

    @property
    def judged_on(self) -> str:
        """The subset whose scores are reported: ``test``, or ``validation`` if there is none."""
        return "test" if "test" in self.scores else "validation"

    @property
    def record(self) -> dict:
        """The provenance of the results."""
        return self._read(self.record_file)


def _read_own(path: Path, read: Callable) -> object:
    """Read a file that this project wrote; a damaged one is named, with what to do."""
    try:
        return read(path)
    except (FileNotFoundError, DamagedFileError):
        raise
    except Exception as error:  # the library of each format has its own
        raise DamagedFileError(
            f"{shown_path(path)} is empty, cut short or damaged ({type(error).__name__}). Run its "
            "notebook again: 03 for a model of images, 04 of cells."
        ) from error


def _read_mapping(path: Path) -> dict:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise TypeError("it holds no mapping")
    return content


def _read_scores(path: Path) -> dict:
    scores = _read_mapping(path)
    if not scores:
        raise KeyError("it holds no score")
    return scores


def _read_calibration(path: Path) -> dict:
    calibration = _read_mapping(path)
    if not calibration["temperature"] > 0:
        raise ValueError("its temperature is not above 0")
    return calibration


def _read_record(path: Path) -> dict:
    record = _read_mapping(path)
    if absent := {"inputs", "weights", "simulated", "seconds"} - record.keys():
        raise KeyError(f"it lacks {', '.join(sorted(absent))}")
    return record


def _read_history(path: Path) -> "pd.DataFrame":
    if not path.read_text().endswith("\n"):
        raise EOFError("its last line is cut")
    return pd.read_csv(path)


def _check_safetensors(path: Path) -> None:
    with safe_open(path, "np"):  # checks its table of contents against its size
        pass


def failure_of(folder: str | Path) -> str | None:
    """Return why the last attempt in a folder failed (``status.json``), None if it did not."""
    status = Path(folder) / "status.json"
    try:
        return _read_own(status, _read_mapping)["failed"] if status.exists() else None
    except (DamagedFileError, KeyError):
        return f"{shown_path(status)} is damaged, so how it ended is unknown: run it again"


def tabulate_runs(runs: Iterable[Run]) -> "pd.DataFrame":
    """Put runs side by side, finished or not.

    Returns
    -------
    DataFrame
        One row per run, in the order given: ``run`` (a `Run`), ``level``, ``model``, ``seed``,
        ``missing`` (why there are no results; empty for a finished run); and for finished
        ones ``judged_on`` (the subset scored), ``architecture``, ``channels`` (such as
        ``0+2``), ``class_names``, ``weights`` (those actually used), ``simulated``,
        ``seconds``, ``pixels`` (SHA-256 of the patches it saw; empty for images), and the
        scores.
    """
    rows = []
    for run in runs:
        row = {"run": run, "level": run.level, "model": run.model, "seed": run.seed}
        row["missing"] = run.failure or ""
        if not row["missing"]:
            try:
                row |= _of_finished(run)
            except FileNotFoundError as error:  # a file of a finished run was taken away
                row["missing"] = str(error)
        rows.append(row)
    return pd.DataFrame(rows)


def _of_finished(run: Run) -> dict[str, object]:
    config, record, judged_on = run.config, run.record, run.judged_on
    hashes = record["inputs"].items()
    return {
        "judged_on": judged_on,
        "architecture": config.architecture,
        "channels": "+".join(map(str, config.channels)),
        "class_names": config.class_names,
        "pixels": next((sha for name, sha in hashes if name.endswith(".npy")), ""),
        **{key: record[key] for key in ("weights", "simulated", "seconds")},
        **{k: v for k, v in run.scores.get(judged_on, {}).items() if isinstance(v, float)},
    }
