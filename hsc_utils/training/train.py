"""Train one model: settle its configuration, fit, predict, score, and write the run directory."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from hsc_utils import metrics, paper
from hsc_utils.files import write_json
from hsc_utils.provenance import code_digest, write_provenance
from hsc_utils.study import Run, RunConfig, TrainingSettings
from hsc_utils.training import batches, fit
from hsc_utils.training.models import starting_weights


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
    whole epoch; anything else is begun anew.

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
        If a subset or a class has no training sample, or the loss is not finite.
    MemoryError
        If a batch does not fit; the message says which parameter to lower.
    """
    run = Run(run_dir)
    level = "cell" if "cell_id" in table else "image"
    samples = _samples(table, level)
    config = _config(level, samples, arrays, settings)
    stored = _stored_config(run)
    if stored == config and all(file.exists() for file in run.results):
        scores = score_predictions(run.predictions, config.class_names)
        # compared as text: an undefined score, NaN, equals no other
        same = json.dumps(scores) == json.dumps(run.scores)
        if not same:
            write_json(run.scores_file, scores)
        print(f"{run}: finished earlier, {'nothing to do' if same else 'its scores made again'}")
        return run.directory
    started = time.perf_counter()
    if stored != config:  # clear what other settings, samples or code left there
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        for file in run.results:
            file.unlink(missing_ok=True)
    run.record_file.unlink(missing_ok=True)
    config.write(run.config_file)
    model = fit.fit(samples, arrays, run, config)
    predictions = fit.predict(model, samples, arrays, config)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.cpu().state_dict().items()},
        run.weights_file,
        metadata={"config": json.dumps(asdict(config))},
    )
    predictions.to_parquet(run.predictions_file, index=False)
    write_json(run.scores_file, score_predictions(predictions, config.class_names))
    shutil.rmtree(run.checkpoints)
    write_provenance(
        run.directory,
        parameters=asdict(config),
        inputs=inputs,
        seconds=time.perf_counter() - started,
        seed=config.seed,
        device=fit.device_name(),
        weights=config.weights_used,
        simulated=bool(samples["simulated"].any()),
    )
    return run.directory


def score_predictions(predictions: pd.DataFrame, class_names: Sequence[str]) -> dict:
    """Score every subset, with 95 % intervals over images for the test: see `Run.scores`."""
    scores = {}
    for subset in ("train", "validation", "test"):
        chosen = predictions[predictions["split"] == subset]
        if chosen.empty:
            continue
        arguments = (chosen["class"], metrics.probability_matrix(chosen, class_names), class_names)
        scores[subset] = metrics.score(*arguments)
        if subset == "test":
            scores[subset]["intervals"] = metrics.intervals(*arguments, chosen["image_id"])
    return scores


def _samples(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """Bring images or cells to one form: id, image_id, class, split, simulated, row."""
    columns = {"id": table[f"{level}_id"]}
    columns |= {name: table[name] for name in ("image_id", "class", "split", "simulated")}
    columns["row"] = table["row"] if level == "cell" else np.arange(len(table))
    samples = pd.DataFrame(columns).reset_index(drop=True)
    trained = samples.loc[samples["split"] == "train", "class"]
    if untrained := sorted(set(samples["class"]) - set(trained)):
        raise ValueError(
            f"No training sample of {', '.join(untrained)}: every class of the table needs one."
        )
    if not (samples["split"] == "validation").any():
        raise ValueError("No validation sample: the split needs one, to know when to stop.")
    return samples


def _config(
    level: str, samples: pd.DataFrame, arrays: np.ndarray, settings: TrainingSettings
) -> RunConfig:
    """Say everything that decides a run, and what its model needs to be used."""
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
        code_sha256=code_digest("training.batches", "training.models", "training.fit"),
    )


def _stored_config(run: Run) -> RunConfig | None:
    """Read what the directory was made with; None where that is nothing, or of another version."""
    try:
        return run.config
    except (FileNotFoundError, ValueError):
        return None
