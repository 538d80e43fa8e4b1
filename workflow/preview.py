"""What is to do for a configuration file, and the disk, weights and time that it takes.

``python workflow/preview.py CONFIG`` shows that, or what is wrong with the file; with ``--start``
it also refuses what would fail, and fetches the networks' weights.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import plan

from hsc_utils import paper, preparation, simulation, training
from hsc_utils.files import from_caller, shown_path
from hsc_utils.run import ParameterError
from hsc_utils.study import Run, Study, failure_of, parse_model_name

# How much disk things take, in bytes, as measured on the demo where nothing else is said.
SIMULATED = 1e6  # an acquisition with its truth
BESIDE_WEIGHTS = 3e6  # a run's notebook, predictions and tables
PREPARED_SHARE = 0.5  # of a raw file: 3 slices of 16 bits become 3 of 8, then compressed
# of a model's weights, while it trains: two checkpoints, and one being written, with Adam's means
IN_TRAINING = 9


def overview(config: str, cores: int, gpus: int) -> str:
    """Say what is to do before anything starts: runs, data, disk, weights and time, a line each.

    Parameters
    ----------
    config : str
        A configuration file whose settings are sound.
    cores, gpus : int
        What the workflow may use at a time.
    """
    states = states_of_runs(config)
    to_do = [run for run, state in states.items() if state != "done"]
    lines = {"runs": _say_runs(list(states.values()), [run.level for run in states])}
    if to_do:
        lines["data"] = " ".join(fault.partition(": ")[2] for fault in plan.faults_of_data(config))
        lines["disk"] = _say_disk(config, to_do, cores, gpus)
        lines["weights"] = _say_weights(config, to_do)
        done = [run for run in states if run not in to_do]
        lines["time"] = _say_time(config, done, to_do, cores, gpus)
    said = [_aligned(f"  {name:8} ", line) for name, line in lines.items() if line]
    return "\n".join([shown_path(plan.study_of(config).root), *said])


def _aligned(name: str, line: str) -> str:
    """Break a line of the plan without breaking a path."""
    kept = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(line, 100, initial_indent=name, subsequent_indent=" " * len(name), **kept)


def states_of_runs(config: str) -> dict[Run, str]:
    """Tell of each run whether it is ``done``, ``changed`` in its settings, ``failed`` or ``new``.

    Changed code, which Snakemake notices too, is not looked for.
    """
    return {
        run: _state(config, run) for level in plan.LEVELS for run in plan.runs_of(config, level)
    }


def _state(config: str, run: Run) -> str:
    """Look at one run's files."""
    made = [*run.results, *[run.folds_file] * (folds_of(config, run.level) > 0)]
    if run.failure is not None or not all(file.exists() for file in made):
        return "failed" if failure_of(run.directory) else "new"
    architecture, channels = parse_model_name(run.model)
    asked = plan.training_settings(
        config, run.level, architecture=architecture, channels=channels, seed=run.seed
    )
    stored = run.config
    same = all(getattr(stored, k) == v for k, v in dataclasses.asdict(asked).items())
    return "done" if same else "changed"


def folds_of(config: str, level: str) -> int:
    """Return how many more networks each run of a level trains, to judge every image once."""
    return plan.settings_of(config, plan.TRAINING[level])["folds"]


def _say_runs(states: Sequence[str], levels: Sequence[str]) -> str:
    """Count the runs by level and state."""
    done, failed, changed = (states.count(state) for state in ("done", "failed", "changed"))
    on_images = f"{levels.count('image')} on images, " * ("image" in levels)
    kinds = f"{on_images}{levels.count('cell')} on cells"
    known = [f"{failed} failed before"] * (failed > 0)
    known += [f"{changed} done with other settings"] * (changed > 0)
    of_them = f" (of these {', '.join(known)})" if known else ""
    by = " by the settings of 03 and 04" if done else ""
    return f"{len(states)} ({kinds}): {done} done{by}, {len(states) - done} to do{of_them}"


def _say_disk(config: str, to_do: Sequence[Run], cores: int, gpus: int) -> str:
    """Say how much disk the study still needs, what for, and how much is free."""
    needed, free = disk_needed(config, to_do, cores, gpus), free_disk(config)
    parts = ", ".join(f"{name} {_size(amount)}" for name, amount in needed.items())
    total = sum(needed.values())
    said = f"about {_size(total)} needed ({parts}), {_size(free)} free"
    if any(plan.faults_of_data(config)):
        said += "; images and cells are counted once the data are there"
    return said + "; THAT MAY NOT BE ENOUGH" * (total > free)


def disk_needed(config: str, to_do: Sequence[Run], cores: int, gpus: int) -> dict[str, float]:
    """Estimate the bytes that a study is still to write, by what for.

    ``runs`` is sure. The rest follows from the raw files that are there, those that cannot be used
    included; as many cells are expected in an image as the paper has.
    """
    study, needed = plan.study_of(config), {}
    images, raw = _acquisitions(config)
    ready = plan.takes_ready_cells(config)
    if plan.is_simulated(config) and not _is_simulated(study):
        needed["acquisitions"] = raw
    if not ready and not (study.prepared / "images.csv").exists():
        made = sum(path.stat().st_size for path in study.prepared.glob("images/*.png"))
        needed["images"] = PREPARED_SHARE * raw - made
    if not (study.cells / "patches.npy").exists():
        side, counts = plan.settings_of(config, plan.DETECTION)["side"], paper.counts()
        per_image = 2 * float(counts["cells"].sum() / counts["images"].sum())  # and in pieces
        needed["cells"] = images * (1 if ready else per_image) * 3 * side**2
    if any(run.level == "image" for run in to_do):
        side = plan.settings_of(config, plan.IMAGE_LEVEL)["input_size"]
        made = [path.stat().st_size for path in study.cache.glob(f"images-{side}px-*.npy")]
        needed["cache"] = images * 3 * side**2 - max(made, default=0)
    weights = [weights_size(run.model) for run in to_do]
    at_a_time = min(
        len(to_do), max(runs_at_a_time(config, run.level, cores, gpus) for run in to_do)
    )
    networks = [1 + folds_of(config, run.level) for run in to_do]
    kept = sum(
        count * (size + BESIDE_WEIGHTS) for count, size in zip(networks, weights, strict=True)
    )
    needed["runs"] = kept + IN_TRAINING * max(weights) * at_a_time
    return {name: amount for name, amount in needed.items() if amount > 0}


def _acquisitions(config: str) -> tuple[int, float]:
    """Count the images of a study, and the bytes of its raw files, made or to be simulated."""
    study = plan.study_of(config)
    if plan.is_simulated(config) and not _is_simulated(study):
        images = sum(simulation.DEMO_COUNTS.values())
        return images, SIMULATED * images
    sizes = [path.stat().st_size for path in preparation.files_below(plan.raw_folder(config))]
    prepared = study.prepared / "images.csv"
    listed = prepared.read_bytes().count(b"\n") - 1 if prepared.exists() else len(sizes)
    return listed, sum(sizes)


def _is_simulated(study: Study) -> bool:
    """Tell whether the demo's acquisitions are all there: their table is written last."""
    return (study.truth / "cells.csv").exists()


def weights_size(model: str) -> float:
    """Return the bytes of a model's weights, with its ImageNet head: 4 a parameter."""
    architecture, _ = parse_model_name(model)
    known = paper.backbones()["million_parameters"]
    if architecture in known.index:
        return 4e6 * float(known[architecture])
    from torchvision import models  # takes seconds

    return 4 * next(iter(models.get_model_weights(architecture))).meta["num_params"]


def free_disk(config: str) -> int:
    """Return the bytes free where a study lies, or will lie."""
    root = plan.study_of(config).root
    return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free


def _say_weights(config: str, to_do: Sequence[Run]) -> str:
    """Say what the runs to do start from, and which published weights are missing."""
    asked = dict.fromkeys(plan.training_settings(config, run.level).weights for run in to_do)
    texts = {"none": "none (random)", "auto": "ImageNet's if they can be had, otherwise random"}
    if places := imagenet_places(config, to_do):
        texts["imagenet"] = _say_imagenet(places)
    return "; ".join(texts.get(weights, f"from {shown_path(weights)}") for weights in asked)


def _say_imagenet(places: Mapping[str, Path]) -> str:
    """Name the files of ImageNet weights that are missing, what happens then, and their place."""
    missing = {name: place for name, place in places.items() if not place.exists()}
    said = f"ImageNet's, those of {len(places) - len(missing)} of {len(places)} networks at hand"
    if not missing:
        return said
    files = ", ".join(f"{p.name} ({_size(weights_size(name))})" for name, p in missing.items())
    folder = next(iter(missing.values())).parent
    return (
        f"{said}; missing: {files}. They are downloaded before anything starts; without a network "
        f"put them into {folder}"
    )


def imagenet_places(config: str, to_do: Sequence[Run]) -> dict[str, Path]:
    """Map each backbone that is to start from ImageNet's weights to where torch looks for them."""
    levels = [
        level
        for level in plan.LEVELS
        if plan.training_settings(config, level).weights == "imagenet"
    ]
    asked = [parse_model_name(run.model)[0] for run in to_do if run.level in levels]
    if not asked:
        return {}
    from torch import hub

    folder = Path(hub.get_dir()) / "checkpoints"
    return {name: folder / Path(imagenet_url(name)).name for name in dict.fromkeys(asked)}


def imagenet_url(architecture: str) -> str:
    """Return where torchvision's ImageNet weights of a backbone are published."""
    from torchvision import models  # takes seconds

    published = models.get_model_weights(architecture).__members__
    if "IMAGENET1K_V1" not in published:
        raise ParameterError(
            f"torchvision has no weights of {architecture} that were trained on ImageNet-1k alone: "
            "choose another model, or set weights to none."
        )
    return published["IMAGENET1K_V1"].url


def prepare_start(config: str, cores: int, gpus: int) -> None:
    """Refuse what would fail after hours for want of data, disk or weights; fetch the weights.

    Raises
    ------
    ParameterError
        If there are no data, if the runs alone need more disk than is free, or if ImageNet's
        weights, of however many networks, are neither at hand nor can be downloaded.
    """
    plan.refuse(config, [*plan.faults_of_data(config)])
    to_do = [run for run, state in states_of_runs(config).items() if state != "done"]
    if not to_do:
        return
    runs, free = disk_needed(config, to_do, cores, gpus)["runs"], free_disk(config)
    if runs > free:
        raise ParameterError(
            f"the {len(to_do)} runs to do need {_size(runs)} on the disk of "
            f"{shown_path(plan.study_of(config).root)}, where {_size(free)} are free: make room, "
            f"or name a study on another disk in {shown_path(config)}."
        )
    _fetch_weights(config, imagenet_places(config, to_do))


def _fetch_weights(config: str, places: Mapping[str, Path]) -> None:
    """Download the ImageNet weights that are missing or damaged; name all that cannot be had."""
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda name: training.starting_weights("auto", name), places)
        lacking = [name for name, weights in zip(places, found, strict=True) if weights == "none"]
    if lacking:
        urls = "\n".join(f"  {imagenet_url(name)}" for name in lacking)
        raise ParameterError(
            f"the ImageNet weights of {', '.join(lacking)} are not at hand and could not be "
            f"downloaded. Put these files into {places[lacking[0]].parent}, or set weights to "
            f"none in {shown_path(config)}, to start from random ones:\n{urls}"
        )


def _say_time(config: str, done: Sequence[Run], to_do: Sequence[Run], cores: int, gpus: int) -> str:
    """Estimate how long training still takes, by the runs that are done."""
    seconds = defaultdict(list)
    for run in done:
        for kind in _kinds(run):
            seconds[kind].append(run.record["seconds"])
    total, unknown = 0.0, dict.fromkeys(plan.LEVELS, 0)
    for run in to_do:
        alike = next((seconds[kind] for kind in _kinds(run) if kind in seconds), None)
        if alike is None:
            unknown[run.level] += 1
        else:
            trainings = 1 + folds_of(config, run.level)
            total += trainings * median(alike) / runs_at_a_time(config, run.level, cores, gpus)
    if not total:
        return "can be estimated once the first run is done"
    at_a_time = dict.fromkeys(str(runs_at_a_time(config, r.level, cores, gpus)) for r in to_do)
    open_ones = [f"{n} on {level}s" for level, n in unknown.items() if n]
    without = f"; not counted: {', '.join(open_ones)}, of which none is done" if open_ones else ""
    length = f"{total / 3600:.1f} h" if total >= 3600 else f"{max(1, round(total / 60))} min"
    return (
        f"roughly {length} of training in 03 and 04 (07 trains some more), by the {len(done)} runs "
        f"done, {' or '.join(at_a_time)} at a time{without}"
    )


def _kinds(run: Run) -> list[tuple[str, ...]]:
    """List what a run is like, nearest first: its model, its backbone on any slices, its level."""
    return [(run.level, run.model, ""), (run.level, parse_model_name(run.model)[0]), (run.level,)]


def runs_at_a_time(config: str, level: str, cores: int, gpus: int) -> int:
    """Return how many runs of a level the workflow starts side by side."""
    sweep = plan.sweep_of(config)
    by_gpu = [gpus // sweep["gpus_per_run"]] if sweep["gpus_per_run"] else []
    return max(1, min([cores // sweep["cores_per_run"][level], *by_gpu]))


def _size(amount: float) -> str:
    """Write bytes for a reader."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def count_cores(text: str) -> int:
    """Read a number of cores, or ``all`` that this process may use, as Snakemake does."""
    if text != "all":
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main() -> None:
    """Show the plan of a configuration; with ``--start`` also see to it that it can be followed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=from_caller, help="such as workflow/config/paper.yaml")
    parser.add_argument("--cores", type=count_cores, default="all", help="at a time; or all")
    parser.add_argument("--gpus", type=int, default=1, help="at a time")
    parser.add_argument("--start", action="store_true", help="refuse what would fail; get weights")
    options = parser.parse_args()
    try:
        plan.study_of(options.config)
        plan.refuse(options.config, [*plan.faults_of_settings(options.config)])
        print(overview(options.config, options.cores, options.gpus), flush=True)
        if options.start:
            prepare_start(options.config, options.cores, options.gpus)
    except ParameterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
