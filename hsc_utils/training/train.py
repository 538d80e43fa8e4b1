"""Train one model: settle its configuration, fit, predict, score, and write the run directory."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save

from hsc_utils import manifest, metrics, paper
from hsc_utils.files import atomic_path, from_root, set_aside, write_json
from hsc_utils.provenance import code_digest, write_provenance
from hsc_utils.study import Run, RunConfig, TrainingSettings
from hsc_utils.training import batches
from hsc_utils.training.device import device_name
from hsc_utils.training.models import build_model, starting_weights


def train(
    table: pd.DataFrame,
    arrays: np.ndarray,
    run_dir: str | Path,
    settings: TrainingSettings,
    *,
    inputs: Sequence[str | Path] = (),
) -> Path:
    """Train a model and write its run directory; find finished work, resume unfinished work.

    A directory that was finished with the same settings, samples and code keeps its model and
    predictions, and is only scored again; one that was interrupted continues after its last
    whole epoch. With others, a finished model stays until its successor is finished, which then
    takes its place; damaged files are set aside and made again.

    Parameters
    ----------
    table : DataFrame
        ``images.csv`` or ``cells.csv``: ``image_id``, ``class``, ``split``, ``simulated``, and
        for cells ``cell_id`` and ``row``.
    arrays : uint8 (N, H, W, 3)
        Patches by ``row``; images in the order of `table`.
    run_dir : path
        See `study.Run`.
    settings : TrainingSettings
        Everything that decides the result.
    inputs : sequence of path
        Files the samples came from, for the record.

    Returns
    -------
    Path
        The run directory, anchored at the repository root.

    Raises
    ------
    ValueError
        Before the first epoch, if the samples are unfit (see `check_samples`), rows or pixels
        are not as described, or the backbone cannot take the size; later, if the loss is not
        finite.
    MemoryError
        If a batch does not fit; the message says which parameter to lower.
    """
    run = Run(run_dir)
    check_samples(table)
    samples = _samples(table, arrays)
    config = _config("cell" if "cell_id" in table else "image", samples, arrays, settings)
    if Run(run.successor).record_file.exists():  # finished, but cut off before it took its place
        _replace(run, Run(run.successor))
    work = _workplace(run, config)
    for reason, file in work.damaged(work.config_file).items():
        set_aside(file, reason)
    if all(file.exists() for file in work.results):
        scores = score_predictions(work.predictions, config.class_names)
        # compared as text: an undefined score, NaN, equals no other
        same = json.dumps(scores) == json.dumps(work.scores)
        if not same:
            write_json(work.scores_file, scores)
        print(f"{work}: finished earlier, {'nothing to do' if same else 'its scores made again'}")
        return run.directory
    from hsc_utils.training import fit  # loads Lightning, which a finished run does without

    if not (table["split"] == "test").any():
        print(
            "There is no test subset: the scores below are those of the validation subset, on "
            "which the kept epoch was chosen, and so flatter the model."
        )
    for outdated in (work.record_file, work.baselines_file):
        outdated.unlink(missing_ok=True)
    config.write(work.config_file)
    if work.weights_file.exists() and work.history_file.exists():
        classes, channels = len(config.class_names), len(config.channels)
        model = build_model(config.architecture, classes, work.weights_file, channels)
    else:
        work.predictions_file.unlink(missing_ok=True)
        model = fit.fit(samples, arrays, work, config)
        tensors = {name: tensor.contiguous() for name, tensor in model.cpu().state_dict().items()}
        with atomic_path(work.weights_file) as temporary:  # readable as other files are
            temporary.write_bytes(save(tensors, {"config": json.dumps(asdict(config))}))
    if not work.predictions_file.exists():
        predictions = fit.predict(model, samples, arrays, config)
        with atomic_path(work.predictions_file) as temporary:
            predictions.to_parquet(temporary, index=False)
    write_json(work.scores_file, score_predictions(work.predictions, config.class_names))
    shutil.rmtree(work.checkpoints, ignore_errors=True)
    write_provenance(
        work.directory,
        parameters=asdict(config),
        inputs=inputs,
        seconds=float(work.history["seconds"].sum()),
        seed=config.seed,
        device=device_name(config.precision),
        weights=config.weights_used,
        simulated=bool(samples["simulated"].any()),
    )
    if work is not run:
        _replace(run, work)
    return run.directory


def _workplace(run: Run, config: RunConfig) -> Run:
    """Choose where to train: beside a finished model of other settings; clear what is outdated."""
    stored = _stored_config(run)
    work = run
    if stored != config and run.weights_file.exists():
        work = Run(run.successor)
        changed = [
            key for key, value in asdict(config).items() if getattr(stored, key, ()) != value
        ]
        print(
            f"{run}: finished earlier with other {', '.join(changed)}. That model stays until its "
            "successor is finished, and is then overwritten.",
            flush=True,
        )
        stored = _stored_config(work)
    if stored != config:
        if work.checkpoints.exists():
            print(f"{work}: an unfinished training with other settings is given up", flush=True)
        shutil.rmtree(work.checkpoints, ignore_errors=True)
        for file in work.results:
            file.unlink(missing_ok=True)
    return work


def _replace(run: Run, successor: Run) -> None:
    """Let a finished run take its place; cut off in between, the next call completes it."""
    for outdated in (run.record_file, run.baselines_file):
        outdated.unlink(missing_ok=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for file in successor.results:  # the record is the last
        if file.exists():
            file.replace(run.directory / file.name)
    shutil.rmtree(successor.directory)


def score_predictions(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Score every subset, the judged one with 95 % intervals over images: see `Run.scores`."""
    scores = {}
    judged_on = "test" if (predictions["split"] == "test").any() else "validation"
    for subset in manifest.SUBSETS:
        chosen = predictions[predictions["split"] == subset]
        if chosen.empty:
            continue
        arguments = (chosen["class"], metrics.probability_matrix(chosen, class_names), class_names)
        scores[subset] = metrics.score(*arguments)
        if subset == judged_on:
            known = (chosen["image_id"], chosen.get("group"))
            scores[subset]["intervals"] = metrics.intervals(*arguments, *known)
            scores[subset]["caution"] = metrics.caution(chosen["class"], *known)
            scores[subset]["ece_if_calibrated"] = metrics.calibrated_ece(arguments[1])
    return scores


def check_samples(
    table: pd.DataFrame, prepared_dir: str | Path | None = None, missing_classes: str = "error"
) -> None:
    """Refuse samples that no model can be trained on, and say what a reader should know of them.

    Parameters
    ----------
    table : DataFrame
        ``images.csv`` or ``cells.csv``, as for `train`.
    prepared_dir : path, optional
        Folder of the ``images.csv`` that the cells come from, where there is one.
    missing_classes : {"error", "allow"}
        What to do with a class of the images that has no cell: stop, or say so and go on.

    Raises
    ------
    ValueError
        If columns or labels are missing, there is one class only, a class has no training
        sample, nothing is for validation, or a class of the images has no cell.
    """
    level = "cell" if "cell_id" in table else "image"
    columns = [f"{level}_id", "image_id", "class", "split", "simulated"] + ["row"] * (
        level == "cell"
    )
    if absent := [column for column in columns if column not in table]:
        raise ValueError(f"The table of {level}s lacks the columns {', '.join(absent)}.")
    unlabelled = table["class"].isna() | (table["class"].astype(str).str.strip() == "")
    if unlabelled.any() or table.empty:
        raise ValueError(
            f"{unlabelled.sum()} of {len(table)} {level}s have a class missing: training needs "
            "labelled ones. Put the files into one folder a class, and run notebook 01 (02 for "
            "ready cells) again."
        )
    if odd := sorted(set(table["split"].map(str)) - set(manifest.SUBSETS)):
        raise ValueError(
            f"split: {odd[0]!r} is not one of {', '.join(manifest.SUBSETS)}. Make the table again."
        )
    classes, again = set(table["class"]), "Change the folders or the shares, and run 01 again."
    if len(classes) < 2:
        raise ValueError(
            f"There is only one class, {classes.pop()}: nothing to tell apart. Add images of "
            "another class in a folder of its own beside it, and run notebook 01 again."
        )
    if untrained := sorted(classes - set(table.loc[table["split"] == "train", "class"])):
        raise ValueError(
            f"No training sample of {', '.join(untrained)}: every class of the table needs one. "
            f"{again}"
        )
    if not (table["split"] == "validation").any():
        raise ValueError(
            f"No validation sample: the split needs one, to know when to stop. {again}"
        )
    if missing_classes not in ("error", "allow"):
        raise ValueError(f"missing_classes: {missing_classes!r} is not one of error, allow.")
    if prepared_dir is None or not (from_root(prepared_dir) / "images.csv").exists():
        return
    if lost := sorted(set(manifest.read_images(prepared_dir)["class"]) - classes):
        sentence = f"No cell was found in any image of {', '.join(lost)}"
        if missing_classes == "error":
            raise ValueError(
                f"{sentence}: a model of these cells would not know that class. Set other "
                "detection settings in notebook 02, or missing_classes to 'allow'."
            )
        print(f"{sentence}: the model does not know that class.")


def _samples(table: pd.DataFrame, arrays: np.ndarray) -> pd.DataFrame:
    """Bring images or cells to one form: id, image_id, class, split, group, simulated, row."""
    batches.check_pictures(arrays)
    level = "cell" if "cell_id" in table else "image"
    columns = {"id": table[f"{level}_id"]}
    columns |= {name: table[name] for name in ("image_id", "class", "split", "simulated")}
    columns["group"] = table.get("group", "")
    columns["row"] = table["row"] if level == "cell" else np.arange(len(table))
    rows = np.asarray(columns["row"])
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"row: {rows.dtype} was given, but whole numbers are expected.")
    counts_agree = level == "cell" or len(table) == len(arrays)
    if rows.min() < 0 or rows.max() >= len(arrays) or not counts_agree:
        raise ValueError(
            f"{len(arrays)} pictures do not fit a table of {len(table)} {level}s (rows "
            f"{rows.min()} to {rows.max()}): they were made at different times. Run notebook "
            f"{'02' if level == 'cell' else '03'} again."
        )
    return pd.DataFrame(columns).reset_index(drop=True)


def _config(
    level: str, samples: pd.DataFrame, arrays: np.ndarray, settings: TrainingSettings
) -> RunConfig:
    """Say everything that decides a run, and what its model needs to be used."""
    if settings.batch_size < 2:
        raise ValueError(
            "batch_size: 1 leaves batch normalisation nothing to average: give 2 or more."
        )
    identity = hashlib.sha256(samples.to_csv(index=False).encode())
    identity.update(np.ascontiguousarray(arrays))
    mean, std = batches.IMAGENET_MEAN, batches.IMAGENET_STD
    if settings.normalisation == "training":
        rows = samples.loc[samples["split"] == "train", "row"].to_numpy()
        mean, std = batches.channel_statistics(arrays, rows)
    return RunConfig(
        **asdict(settings),
        level=level,
        class_names=paper.class_order(samples["class"]),
        weights_used=starting_weights(settings.weights, settings.architecture),
        mean=[mean[channel] for channel in settings.channels],
        std=[std[channel] for channel in settings.channels],
        samples_sha256=identity.hexdigest(),
        code_sha256=code_digest(
            "training.batches", "training.models", "training.fit", "training.device"
        ),
    )


def _stored_config(run: Run) -> RunConfig | None:
    """Read what the directory was made with; None where that is nothing, or cannot be read."""
    try:
        return run.config if run.config_file.exists() else None
    except ValueError as error:
        print(error)
        return None
