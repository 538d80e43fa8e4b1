"""The model card of a run: what it is, how good it is, and what it must not be used for.

Its questions are those of Mitchell et al. 2019 (arXiv 1810.03993). Every line comes from the record
of the run and of its study; what is not recorded is said to be so. The same record gives the same
bytes.
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hsc_utils import manifest, metrics, provenance, shortcuts, training
from hsc_utils.files import atomic_path, file_sha256, shown_path
from hsc_utils.study import Run, RunConfig, Study, model_words

_UNKNOWN = "not recorded"
_COLOURS = ("red", "green", "blue")
_STARTS = {"none": "random weights", "imagenet": "torchvision's ImageNet weights"}
_IMBALANCE = {
    "weights": "classes weighted in the loss by inverse frequency",
    "sampler": "classes drawn equally often",
    "none": "unequal classes left as they are",
}
_TO_8_BIT = {
    "bit_depth": "the camera's full range, the same for all images",
    "own_depth": "the full range of each image's own bit depth",
    "fixed": "the same limits for all images",
    "image": "percentiles of each image",
    "slice": "percentiles of each slice of each image",
}
# errors before and after calibration: their name, and their subset if it is not the one judged
_CALIBRATED = {
    "log_loss": ("log loss (nats)", "validation"),
    "judged_log_loss": ("log loss (nats)", ""),
    "ece": ("expected calibration error", ""),
}
_VERSIONS = ("torch", "torchvision", "lightning", "numpy", "scikit-image", "scikit-learn")
_NOTICED = 0.8  # our reading: a change that fewer of the changed cells give away goes unnoticed


class _Record(NamedTuple):
    """All that a card is written from; what is not recorded is empty, or None for a table."""

    run: Run
    config: RunConfig
    trained: dict  # provenance of the run
    scores: dict  # of the subset judged
    predictions: pd.DataFrame
    calibration: dict
    passport: dict
    baselines: pd.DataFrame | None
    folds: pd.DataFrame | None
    audit: pd.DataFrame | None
    prepared: dict  # provenance of the study's images, if they are those that it was trained on
    cells: dict  # of its cells, likewise
    rejected: pd.DataFrame | None

    @property
    def judged(self) -> pd.DataFrame:
        """Predictions of the subset judged."""
        return self.predictions[self.predictions["split"] == self.run.judged_on]

    @property
    def kinds(self) -> dict:
        """What the training images were like, by property: all values that occurred."""
        return self.passport.get("training_images", {}).get("kinds", {})

    @property
    def pixel_size(self) -> str:
        """Least and largest pixel size of the training images."""
        ends = self.passport.get("training_images", {}).get("ranges", {}).get("pixel_size_um")
        return f"{' to '.join(dict.fromkeys(f'{end:g}' for end in ends))} µm" if ends else _UNKNOWN


def write_model_card(run: Run, paths: Study) -> Path:
    """Write the model card of a finished run, in Markdown, from the record alone.

    The title is a heading of the first level, sections are of the second. An audit of shortcuts is
    told if it was of these very weights, and what steps 01 and 02 recorded if the run was trained
    on what they wrote.

    Parameters
    ----------
    run : Run
        A finished run.
    paths : Study
        Its study.

    Returns
    -------
    Path
        `Run.card_file`.

    Raises
    ------
    FileNotFoundError
        If the run is not finished.
    DamagedFileError
        If one of `Run.results`, or the cross-validation, is damaged. Other files that are damaged
        count as not recorded, and a printed line says so.
    """
    record = _gather(run, paths)
    sections = {
        "What it is": _identity,
        "Data": _data,
        "How the pictures were made": _pictures,
        "Training": _training,
        "Scores": _scores,
        "Cross-validation": _cross_validation,
        "Calibration": _calibration,
        "Audit of shortcuts": _audit,
        "Cells unlike those of training": _unlike,
        "What it is for, and what not": _uses,
        "Licence": _licence,
        "Fingerprints": _fingerprints,
    }
    text = f"# {model_words(record.config.model)} on {run.level}s, seed {record.config.seed}\n"
    if record.trained["simulated"]:
        text += (
            f"\n> ⚠️ **{provenance.SIMULATED_NOTE}.** Every number below shows that the code works, "
            "and says nothing about blood stem cells.\n"
        )
    text += f"\nModel card, written from the record of the run `{run}`; nothing in it is by hand.\n"
    for title, tell in sections.items():
        text += f"\n## {title}\n\n{tell(record)}\n"
    with atomic_path(run.card_file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return run.card_file


def _gather(run: Run, paths: Study) -> _Record:
    """Read the record of a run, and that of its study as far as it is about this run."""
    trained = run.record
    prepared = cells = {}
    seen = set(trained["inputs"].values())
    if run.level == "cell" and _is_one_of(paths.cells / "cells.csv", seen):
        cells = _read(paths.cells / "provenance.json", _mapping) or {}
        seen = set(cells.get("inputs", {}).values())
    if _is_one_of(paths.prepared / "images.csv", seen):
        prepared = _read(paths.prepared / "provenance.json", _mapping) or {}
    folder = paths.prepared if prepared else paths.cells
    return _Record(
        run=run,
        config=run.config,
        trained=trained,
        scores=run.scores[run.judged_on],
        predictions=run.predictions,
        calibration=run.calibration,
        passport=_read(run.passport_file, _mapping) or {},
        baselines=_read(run.baselines_file, _baselines),
        folds=run.folds,
        audit=_audit_of(run, paths),
        prepared=prepared,
        cells=cells,
        rejected=_read(folder / "rejected.csv", _rejected) if prepared or cells else None,
    )


def _read(path: Path, read: Callable[[Path], object]) -> object | None:
    """Read a part of the record; None where it is not there, or is damaged, which is said."""
    if not path.exists():
        return None
    try:
        return read(path)
    except Exception as error:  # the library of each format has its own
        why = f"{type(error).__name__}: {error}"
        print(f"{shown_path(path)} cannot be read and counts as {_UNKNOWN} on the card ({why})")
        return None


def _mapping(path: Path) -> dict:
    return dict(json.loads(path.read_text()))


def _rejected(path: Path) -> pd.DataFrame:
    return manifest.read_rejected(path.parent)


def _baselines(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"features": "Int64", "missing": str})
    return table.fillna({"missing": ""})


def _verdicts(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"why": str}).fillna({"why": ""})


def _is_one_of(path: Path, hashes: Iterable[str]) -> bool:
    return path.exists() and file_sha256(path) in hashes


def _audit_of(run: Run, paths: Study) -> pd.DataFrame | None:
    """Read what step 07 found out about a run; None if it audited none, or other weights."""
    audited = _read(paths.shortcuts / "provenance.json", _mapping) or {}
    if not _is_one_of(run.weights_file, audited.get("inputs", {}).values()):
        return None
    audit = _read(paths.shortcuts / "audit.csv", _verdicts)
    return audit if audit is None else audit[audit["level"] == run.level]


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {fact}" for name, fact in facts.items())


def _table(table: pd.DataFrame) -> str:
    """Write a table in Markdown; numbers to the right, names to the left."""
    shown = table.map(lambda value: str(value).replace("|", "\\|"))
    shown.columns = shown.columns.str.replace("|", "\\|")
    return shown.to_markdown(index=False, disable_numparse=True)


def _listed(names: Sequence[str]) -> str:
    """Write names as a sentence does: "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _identity(record: _Record) -> str:
    """Say what the model takes and gives."""
    side = record.passport.get("side")
    shown = f"shown to the network at {record.config.input_size} × {record.config.input_size} px"
    sample = f"one whole image, {shown}"
    if record.run.level == "cell":
        cut = f"a square of {side} × {side} px" if side else f"a square, its side {_UNKNOWN}"
        sample = f"one cell, {cut}, {shown}"
    facts = {
        "Backbone": f"{record.config.architecture}, as in torchvision, with a new last layer",
        "Gives": f"a probability for each of {_listed(record.config.class_names)}",
        "Takes": sample,
        "Slices seen": "; ".join(
            f"{_COLOURS[channel]}: {name}"
            for channel, name in zip(record.config.channels, _slices(record), strict=True)
        ),
        "Use": f"`python -m hsc_utils.new_images {record.run} FOLDER`, or notebook 08",
    }
    return _facts(facts)


def _slices(record: _Record) -> list[str]:
    """Name the slices that the model sees, in the order of its channels."""
    chosen = record.passport.get("preparation", {}).get("slices") or []
    orders = [names.split(";") for names in record.kinds.get("channel_names", []) if names]
    seen = []
    for channel in record.config.channels:
        names = [order[channel] for order in orders if channel < len(order)]
        names = [str(chosen[channel])] if channel < len(chosen) else dict.fromkeys(names)
        seen.append(" or ".join(names) or f"slice {channel} (name {_UNKNOWN})")
    return seen


def _data(record: _Record) -> str:
    """Say what the model learnt from and what was left out."""
    of_split = record.predictions.groupby(["class", "split"])
    samples, images = of_split.size(), of_split["image_id"].nunique()
    counts = samples.astype(str)
    if record.run.level == "cell":
        counts = samples.map("{:,}".format) + " cells of " + images.map("{:,}".format) + " images"
    table = pd.DataFrame(
        {
            subset: [counts.get((name, subset), "none") for name in record.config.class_names]
            for subset in manifest.SUBSETS
        },
        pd.Index(record.config.class_names, name="class"),
    )
    facts = {
        "Data set": record.passport.get("dataset", _UNKNOWN),
        "Days or other groups": _groups(record),
    }
    facts["In several subsets"] = _split(record)
    facts["Refused"] = _refused(record)
    if empty := record.cells.get("images_without_cells"):
        facts["Without a cell"] = f"{len(empty)} images, which no cell-level model sees"
    said = record.prepared.get("cautions", [])
    if not record.prepared:
        said = record.cells.get("fallbacks", [])
    for caution in said:
        facts.setdefault("Caution", "")
        facts["Caution"] += f"{textwrap.shorten(caution, 240, placeholder=' …')} "
    return f"{_facts(facts)}\n\n{_table(table.reset_index())}"


def _groups(record: _Record) -> str:
    """Count the days (or other groups) that are known of the samples."""
    groups = record.predictions["group"].astype(str)
    if not metrics.counted_groups(groups):
        return f"{_UNKNOWN} for {(groups == '').mean():.0%} of the samples"
    return f"{groups.nunique()}, {groups.min()} to {groups.max()}"


def _split(record: _Record) -> str:
    """Say how many images, and days or groups, lie in several subsets."""
    counts = []
    for names, column in (("images", "image_id"), ("days or groups", "group")):
        subsets = record.predictions.groupby(column)["split"].nunique().drop("", errors="ignore")
        if len(subsets):
            counts.append(f"{(subsets > 1).sum() or 'none'} of {len(subsets):,} {names}")
    return ", ".join(counts)


def _refused(record: _Record) -> str:
    """Count the files that could not be used."""
    if record.rejected is None:
        return _UNKNOWN
    if record.rejected.empty:
        return "no file"
    of_all = f" of {record.prepared['files']:,}" if "files" in record.prepared else ""
    return f"{len(record.rejected):,}{of_all} files, each with its reason in `rejected.csv`"


def _pictures(record: _Record) -> str:
    """Say how an acquisition becomes what the model takes."""
    passport, kinds = record.passport, record.kinds
    if not passport:
        return (
            f"{_UNKNOWN.capitalize()}: run notebook 03 (images) or 04 (cells) of its study again."
        )
    how, detection = passport.get("preparation", {}), passport.get("detection")
    limits = "{:g} to {:g}".format(*how["limits"]) if how.get("limits") else ""
    facts = {
        "Slices of a file": _values(kinds.get("slices")),
        "Chosen slices": ", ".join(map(str, how.get("slices", []))) or "as they come",
        "Bit depth": _values(kinds.get("bit_depth")),
        "To 8 bits": f"{_TO_8_BIT.get(how.get('to_8_bit'), _UNKNOWN)} {limits}".rstrip(),
        "Pixel size": record.pixel_size,
        "Size of an image, px": _values(kinds.get("size")),
        "Objective": _values(kinds.get("objective")),
    }
    if record.run.level == "cell":
        ready = "somebody else: they came as ready pictures"
        told = (f"{name} {value}" for name, value in (detection or {}).items())
        facts["Cells found by"] = ", ".join(told) or ready
        border = f"; cells at the border: {passport.get('border')}" * bool(passport.get("border"))
        facts["Cut"] = f"{passport.get('side', _UNKNOWN)} px a side{border}"
    return _facts(facts)


def _values(values: Sequence | None) -> str:
    """List the values that occurred, if anything is recorded and they are not too many."""
    known = [str(value) for value in values or [] if str(value)]
    more = f" or {len(known) - 5} others" * (len(known) > 5)
    order = " (commonest first)" * (len(known) > 1)
    return ", ".join(known[:5]) + more + order if known else _UNKNOWN


def _training(record: _Record) -> str:
    """Say how the model was trained."""
    config, history = record.config, record.run.history
    kept = history.loc[history["val_loss"].idxmin(), "epoch"]
    start = _STARTS.get(config.weights_used, f"the weights `{shown_path(config.weights_used)}`")
    course = "one cycle up and down" if config.schedule == "one-cycle" else "constant"
    statistics = "clean training samples" if config.batch_norm == "clean" else "running averages"
    colours = "the training subset" if config.normalisation == "training" else "ImageNet"
    facts = {
        "Started from": f"{start} (asked for: `{config.weights}`)",
        "Optimiser": f"Adam, learning rate {config.learning_rate:g}, {course}; "
        f"{config.batch_size} samples a step",
        "Epochs": f"{len(history)} of at most {config.max_epochs}; that of least validation loss "
        f"is kept: {kept} (patience {config.patience})",
        "Classes": _IMBALANCE[config.imbalance],
        "Normalised by": f"mean and spread of {colours}; batch normalisation by {statistics}",
        "Augmentation": f"flips ({config.flip:g}), shifts up to {config.translation:.0%}, turns up "
        f"to {config.rotation:g}°, zoom up to {config.zoom:.0%}",
        "Seed": str(config.seed),
        "Device": f"{record.trained.get('device', _UNKNOWN)}; precision {config.precision}",
        "Time": f"{record.trained['seconds']:,.0f} s of training",
    }
    return _facts(facts)


def _scores(record: _Record) -> str:
    """Give the scores of the subset judged, by class, and beside what needs no network."""
    table = training.score_table(record.run).filter(regex="^(?!paper)").reset_index()
    images = record.judged.groupby("class")["image_id"].nunique()
    by_class = pd.DataFrame(
        {
            "class": name,
            "samples": scores["samples"],
            "images": images.get(name, 0),
            **{
                title: f"{scores[key]:.3f}".replace("nan", "–")
                for key, title in (
                    ("sensitivity", "sensitivity"),
                    ("specificity", "specificity"),
                    ("f1", "F1"),
                    ("auroc", "AUROC"),
                )
            },
        }
        for name, scores in record.scores["per_class"].items()
    )
    said = " ".join(training.sentences(record.run))
    text = f"{said}\n\n{_table(table)}\n\n{_table(by_class)}\n\n"
    if record.baselines is None:
        return f"{text}What would do without a network: {_UNKNOWN}."
    beside = shortcuts.baseline_table(record.baselines).reset_index()
    return f"{text}{shortcuts.sentence(record.baselines)}\n\n{_table(beside)}"


def _cross_validation(record: _Record) -> str:
    """Say how all samples were judged by networks that had not seen them; scores stand above."""
    if record.folds is None:
        return "Not asked for."
    judged = f"{len(record.folds):,} {record.run.level}s judged by {record.folds.attrs['folds']}"
    return (
        f"{record.folds.attrs['said']} {judged} networks of these settings in all; their scores "
        "stand above, as *cross-validated*."
    )


def _calibration(record: _Record) -> str:
    """Give the temperature, and how far probabilities were off before and after."""
    told = record.calibration
    if told["reason"]:
        return f"None: {told['reason']}. The probabilities stand as the network gives them."
    text = (
        f"Logits are divided by a temperature of {told['temperature']:.2f}, fitted on "
        f"{told['samples']} {record.run.level}s of {told['images']} validation images, of which "
        f"{told['mistakes']} were wrong."
    )
    rows = []
    for key, (name, subset) in _CALIBRATED.items():
        when = [f"{told[f'{key}_{when}']:.3f}" for when in ("before", "after")]
        rows.append((name, subset or told["judged_on"], *when))
    table = _table(pd.DataFrame(rows, columns=["error", "subset", "before", "after"]))
    chance = "{:.3f} to {:.3f}".format(*told["ece_if_calibrated"])
    text = f"{text}\n\n{table}\n\nOf the last, calibrated probabilities would show {chance} here."
    votes = record.passport.get("vote_temperature")
    if record.run.level == "cell" and votes:
        text += (
            f"\n\nThe mean over an image's cells, which is too timid, is divided by {votes:.2f} "
            "before an image is judged (fitted on the votes of the validation images)."
        )
    return text


def _audit(record: _Record) -> str:
    """Give the verdict of each question that step 07 asked of these weights."""
    if record.audit is None:
        return "Not asked of this run: run notebook 07."
    columns = ["question", "value (95 % interval)", "verdict"]
    shown = shortcuts.readable(record.audit)[columns]
    return f"{shortcuts.summary(record.audit)}\n\n{_table(shown)}"


def _unlike(record: _Record) -> str:
    """Say how often a cell is noticed to be unlike those of training, rightly and wrongly."""
    told = record.passport.get("unlike")
    if not told:
        return f"{_UNKNOWN.capitalize()}."
    rows = [
        (f"{name} subset" if name in manifest.SUBSETS else f"changed: {name}", f"{share:.1%}")
        for name, share in told.items()
    ]
    return (
        "A sample is called unlike those of training where its distance to them in the network's "
        "last features exceeds a threshold, which few of the validation subset do. This is so "
        f"for:\n\n{_table(pd.DataFrame(rows, columns=['samples', 'called unlike']))}"
    )


def _uses(record: _Record) -> str:
    """Derive what the model may and may not be used for."""
    limits = [*_limits_of_scope(record), *_limits_of_evidence(record), *_limits_of_audit(record)]
    return (
        f"It is for research: telling {_listed(record.config.class_names)} apart in pictures made "
        "as above. It must not be used for:\n\n" + "\n".join(f"- {limit}" for limit in limits)
    )


def _limits_of_scope(record: _Record) -> Iterable[str]:
    """Name what lies outside of what the model was shown."""
    if record.trained["simulated"]:
        yield "**Anything real**: it was trained on simulated pictures."
    yield (
        "**A decision about a patient, a donor or one single cell**: nothing of that kind was "
        "tested, and its probabilities speak of many samples together."
    )
    yield (
        f"**Other classes**: it answers {_listed(record.config.class_names)} to whatever it is "
        "shown, other cells, debris and dust among it."
    )
    slices = _listed(_slices(record))
    yield f"**Other slices**, or the same in another order: it has learnt from {slices}."
    objective = _values(record.kinds.get("objective"))
    unknown = ", so that nobody can tell what is magnified alike" * (record.pixel_size == _UNKNOWN)
    yield (
        "**Another microscope, camera or magnification** than it has learnt from: objective "
        f"{objective}, side of a pixel {record.pixel_size}{unknown}."
    )


def _limits_of_evidence(record: _Record) -> Iterable[str]:
    """Name what the scores do not carry."""
    scores, judged, subset = record.scores, record.judged, record.run.judged_on
    if subset == "validation":
        yield "**A score to report**: there is no test subset, and validation flatters the model."
    if scores["left_out"]:
        yield f"**{_listed(scores['left_out'])}**: no {subset} sample, so nothing is known of it."
    images = judged.groupby("class")["image_id"].nunique()
    few = images[images < metrics.ROUGH_IMAGES]
    if len(few):
        counts = _listed([f"{name} ({count})" for name, count in few.items()])
        yield (
            f"**Fine differences of scores**: few {subset} images of {counts}, where "
            f"{metrics.ROUGH_IMAGES} are wanted."
        )
    low, high = scores["intervals"]["auroc"]
    if pd.isna(low):
        yield "**A claim that it can tell the classes apart**: its AUROC has no interval."
    elif low <= 0.5:
        yield (
            "**A claim that it can tell the classes apart**: the interval of its AUROC, "
            f"{low:.3f} to {high:.3f}, includes guessing."
        )
    yield from _limits_of_rivals(record)
    yield from _limits_of_groups(record)
    if record.calibration["reason"]:
        yield "**Its probabilities at their word**: it was not calibrated."
    shares = record.passport.get("unlike", {}).items()
    missed = {name: share for name, share in shares if name not in manifest.SUBSETS}
    missed = [f"{name} ({share:.1%})" for name, share in missed.items() if share < _NOTICED]
    if missed:
        yield (
            "**Pictures that nobody has looked at**: of changed samples it does not notice enough "
            f"to be unlike those of training: {_listed(missed)}."
        )


def _limits_of_rivals(record: _Record) -> Iterable[str]:
    """Name the predictors without a network that are not told apart from this one."""
    if record.baselines is None:
        yield f"**A claim that a network is needed**: what does without one is {_UNKNOWN}."
        return
    others = record.baselines["predictor"].ne("the network") & record.baselines["features"].notna()
    simple = record.baselines[others & ~record.baselines["predictor"].str.contains("ceiling")]
    equals = simple.loc[~(simple["difference_low"] > 0), "predictor"]
    if len(equals):
        yield (
            "**A claim that a network is needed**: not shown to be better than "
            f"{_listed([*equals])}."
        )


def _limits_of_groups(record: _Record) -> Iterable[str]:
    """Say whether the days (or other groups) that it is judged on were seen in training."""
    groups = record.predictions["group"].astype(str)
    if not metrics.counted_groups(groups):
        yield "**Other days or mice**: those of its images are not recorded."
        return
    judged = set(record.judged["group"].astype(str))
    shared = judged & set(groups[record.predictions["split"] == "train"])
    if not shared:
        return
    asked = pd.DataFrame() if record.audit is None else record.audit.query("key == 'day_held_out'")
    audit = "".join(f"; a fall on days held out: {v}" for v in asked.get("verdict", ()))
    yield (
        f"**A promise about days (or groups) it has never seen**: {len(shared)} of the "
        f"{len(judged)} that it is judged on were in training as well{audit}."
    )


def _limits_of_audit(record: _Record) -> Iterable[str]:
    """Name the alarms of the audit, with what to do about them."""
    if record.audit is None:
        yield "**A claim about what it looks at**: notebook 07 has not asked."
        return
    for row in record.audit.query("verdict == 'alarm'").itertuples():
        yield f"**A claim about cells alone** (alarm: {row.question[:-1]}): {row.advice}"
    open_ = (record.audit["verdict"] == "cannot be told").sum()
    if open_:
        yield f"**A claim that it uses no shortcut**: {open_} questions cannot be told."


def _licence(record: _Record) -> str:
    """Say what is known of rights in code, data and starting weights."""
    data = record.prepared.get("licence") or record.cells.get("licence") or _UNKNOWN
    start = _STARTS.get(record.config.weights_used, "weights from a file")
    return _facts(
        {
            "Code": "MIT (file `LICENSE` of the repository)",
            "Data": data,
            "Weights": f"trained from {start} on the data above; a licence of their own is "
            f"{_UNKNOWN}",
        }
    )


def _fingerprints(record: _Record) -> str:
    """Name exactly which files, samples and code these are."""
    trained = record.trained
    versions = trained.get("versions", {})
    told = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions)
    facts = {
        "`model.safetensors`, SHA-256": f"`{file_sha256(record.run.weights_file)}`",
        "Samples and pixels, SHA-256": f"`{record.config.samples_sha256}`",
        "Code that trained, SHA-256": f"`{record.config.code_sha256}`",
        "Commit": f"`{trained.get('git_commit', _UNKNOWN)}`",
        "Trained": trained.get("written_at", _UNKNOWN),
        "Versions": f"Python {trained.get('python', _UNKNOWN)}, {told or _UNKNOWN}",
    }
    return _facts(facts)
