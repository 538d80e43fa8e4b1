"""Train one model: settle its configuration, fit, predict, score, and write the run directory."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save

from hsc_utils.files import atomic_path, set_aside, write_json
from hsc_utils.provenance import write_provenance
from hsc_utils.study import Run, RunConfig, TrainingSettings
from hsc_utils.training.device import device_name
from hsc_utils.training.judge import calibrate, score_predictions
from hsc_utils.training.models import build_model
from hsc_utils.training.samples import check_samples, settle_config, tidy_samples


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
    samples = tidy_samples(table, arrays)
    config = settle_config("cell" if "cell_id" in table else "image", samples, arrays, settings)
    if Run(run.successor).record_file.exists():  # finished, but cut off before it took its place
        _replace(run, Run(run.successor))
    work = _workplace(run, config)
    for reason, file in work.damaged(work.config_file).items():
        set_aside(file, reason)
    judged = work.scores_file, work.calibration_file
    if all(file.exists() for file in work.results if file not in judged):
        made = _judge(work, config)
        print(f"{work}: finished earlier, {f'its {made} made anew' if made else 'nothing to do'}")
        return run.directory
    from hsc_utils.training import fit  # loads Lightning, which a finished run does without

    if not (table["split"] == "test").any():
        print(
            "There is no test subset: the scores below are those of the validation subset, on "
            "which the kept epoch was chosen, and so flatter the model."
        )
    _forget(work)
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
    _judge(work, config)
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


def _judge(run: Run, config: RunConfig) -> str:
    """Score and calibrate the predictions; say which of the two was missing or is other now."""
    predictions, made = run.predictions, []
    for name, file, judge in (
        ("scores", run.scores_file, score_predictions),
        ("calibration", run.calibration_file, calibrate),
    ):
        found = judge(predictions, config.class_names)
        # compared as text: an undefined score, NaN, equals no other
        stored = json.loads(file.read_text()) if file.exists() else None
        if json.dumps(found) != json.dumps(stored):
            write_json(file, found)
            made.append(name)
    return " and ".join(made)


def _forget(run: Run) -> None:
    """Remove the record, and what other steps made from a model that is about to change."""
    for outdated in (
        *(run.record_file, run.baselines_file, run.folds_file),
        *(run.passport_file, run.features_file, run.card_file),
    ):
        outdated.unlink(missing_ok=True)


def _replace(run: Run, successor: Run) -> None:
    """Let a finished run take its place; cut off in between, the next call completes it."""
    _forget(run)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for file in successor.results:  # the record is the last
        if file.exists():
            file.replace(run.directory / file.name)
    shutil.rmtree(successor.directory)


def _stored_config(run: Run) -> RunConfig | None:
    """Read what the directory was made with; None where that is nothing, or cannot be read."""
    try:
        return run.config if run.config_file.exists() else None
    except ValueError as error:
        print(error)
        return None
