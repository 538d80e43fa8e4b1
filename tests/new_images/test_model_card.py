import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from hsc_utils import provenance
from hsc_utils.files import file_sha256, write_csv, write_json
from hsc_utils.new_images.model_card import write_model_card
from hsc_utils.study import DamagedFileError, RunConfig, Study
from hsc_utils.training.judge import calibrate, score_predictions

CLASSES = ("early", "late|4")  # one with the sign that divides the columns of a table
DAYS = [f"2024-03-{day:02d}" for day in range(1, 9)]
PASSPORT = {
    "dataset": "two kinds of cells",
    "preparation": {"slices": [], "bit_depth": None, "to_8_bit": "bit_depth", "limits": None},
    "detection": {"method": "log", "min_sigma": 8.0},
    "side": 48,
    "border": "drop",
    "training_images": {
        "kinds": {
            "slices": ["3", "2"],
            "channel_names": ["DIC;Brightfield;Glow", "DIC;Brightfield"],
            "bit_depth": ["12"],
            "size": ["400 × 400"],
            "objective": ["20X"],
        },
        "ranges": {"pixel_size_um": [0.31, 0.31]},
    },
    "unlike": {"validation": 0.05, "test": 0.04, "other colours": 1.0, "blurred": 0.1},
}
SECTIONS = [
    "What it is",
    "Data",
    "How the pictures were made",
    "Training",
    "Scores",
    "Cross-validation",
    "Calibration",
    "Audit of shortcuts",
    "Cells unlike those of training",
    "What it is for, and what not",
    "Licence",
    "Fingerprints",
]


def predictions(skill=2.0, images=24, days=DAYS):
    """Two cells in each image of each class and subset; more skill, fewer mistakes."""
    rng, rows = np.random.default_rng(0), []
    for split in ("train", "validation", "test"):
        for k in range(2 * images):
            name = CLASSES[k % 2]
            for cell in (0, 1):
                chance = 1 / (1 + np.exp(-rng.normal(skill)))
                p_first = chance if k % 2 == 0 else 1 - chance
                image_id = f"{split}{k}"
                day = days[k // 2 % len(days)]
                rows.append((f"{image_id}_{cell}", image_id, name, split, day, p_first))
    table = pd.DataFrame(rows, columns=["id", "image_id", "class", "split", "group", "p_early"])
    return table.assign(**{"p_late|4": 1 - table["p_early"]})


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


@pytest.fixture
def write_run(study):
    """Return a function that writes the record of a run, and of the steps before it."""

    def write(table=None, simulated=False, **left_out):
        run = study.run("cell", "resnet18", 0)
        table = predictions() if table is None else table
        write_csv(study.prepared / "images.csv", table[["image_id"]])
        write_csv(study.prepared / "rejected.csv", pd.DataFrame({"source": ["x"], "reason": "cut"}))
        how = {"parameters": {}, "seconds": 1}
        provenance.write_provenance(study.prepared, **how, files=73, dataset="two kinds of cells")
        write_csv(study.cells / "cells.csv", table[["id"]])
        inputs = [study.prepared / "images.csv"]
        provenance.write_provenance(study.cells, **how, inputs=inputs)
        RunConfig(
            architecture="resnet18",
            weights="auto",
            weights_used="imagenet",
            input_size=64,
            batch_size=8,
            max_epochs=2,
            patience=2,
            learning_rate=1e-3,
            level="cell",
            class_names=CLASSES,
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
            samples_sha256="5a5a",
            code_sha256="c0de",
        ).write(run.config_file)
        write_csv(run.history_file, pd.DataFrame({"epoch": [1, 2], "val_loss": [0.4, 0.6]}))
        table.to_parquet(run.predictions_file)
        write_json(run.scores_file, score_predictions(table, CLASSES))
        write_json(run.calibration_file, calibrate(table, CLASSES))
        run.weights_file.write_bytes(b"weights")
        made = {"device": "CPU", "weights": "imagenet", "simulated": simulated, "seconds": 61}
        provenance.write_provenance(
            run.directory, parameters={}, inputs=[study.cells / "cells.csv"], **made
        )
        if "passport" not in left_out:
            write_json(run.passport_file, PASSPORT)
        return run

    return write


def write_audit(study, run, verdict="alarm"):
    rows = [
        ("cell", "count", "Does the number of cells tell?", 0.5, 0.9, 0.8, 0.95, verdict),
        ("cell", "day_held_out", "Does the score fall?", 0.0, 0.01, -0.1, 0.1, "no sign"),
        ("image", "day", "Does the day tell?", 0.5, 0.9, 0.8, 0.95, "alarm"),
    ]
    columns = ["level", "key", "question", "reference", "estimate", "low", "high", "verdict"]
    audit = pd.DataFrame(rows, columns=columns)
    audit = audit.assign(why="", advice="Dilute.", measured="AUROC", p_holm=0.01)
    write_csv(study.shortcuts / "audit.csv", audit)
    inputs = [run.weights_file]
    provenance.write_provenance(study.shortcuts, parameters={}, inputs=inputs, seconds=1)


def sections(card):
    parts = card.split("\n## ")[1:]
    return {title: text for title, _, text in (part.partition("\n\n") for part in parts)}


def test_a_card_answers_every_question_from_the_record(study, write_run):
    run = write_run()
    assert write_model_card(run, study) == run.card_file
    card = run.card_file.read_text()
    told = sections(card)
    assert card.startswith("# ResNet-18 on cells, seed 0\n")
    assert list(told) == SECTIONS
    assert all(text.strip() for text in told.values())
    assert not any(word in card for word in ("nan", "None", "{", "<NA>"))
    assert "red: DIC; green: Brightfield; blue: Glow" in told["What it is"]
    assert "48 × 48 px" in told["What it is"]
    assert "two kinds of cells" in told["Data"]
    assert "1 of 73 files" in told["Data"]
    assert "none of 144 images, 8 of 8 days or groups" in told["Data"]
    assert "48 cells of 24 images" in told["Data"]
    assert "method log, min_sigma 8.0" in told["How the pictures were made"]
    assert "torchvision's ImageNet weights (asked for: `auto`)" in told["Training"]
    assert "is kept: 1 (patience 2)" in told["Training"]
    auroc = run.scores["test"]["auroc"]
    assert f"{auroc:.3f}" in told["Scores"]
    assert f"temperature of {run.calibration['temperature']:.2f}" in told["Calibration"]
    assert "changed: blurred" in told["Cells unlike those of training"]
    assert file_sha256(run.weights_file) in told["Fingerprints"]
    assert "Simulated" not in card


def test_tables_keep_their_columns_whatever_a_class_is_called(study, write_run):
    card = write_model_card(write_run(), study).read_text()
    widths = [line.replace("\\|", "").count("|") for line in card.splitlines()]
    pairs = [(before, after) for before, after in itertools.pairwise(widths) if before and after]
    assert len(pairs) > 20
    assert all(before == after for before, after in pairs)


def test_the_same_record_gives_the_same_bytes(study, write_run):
    run = write_run()
    first = write_model_card(run, study).read_bytes()
    assert write_model_card(run, study).read_bytes() == first


def test_what_is_missing_is_said_and_not_guessed(study, write_run):
    run = write_run(passport=None)
    shutil.rmtree(study.prepared)
    shutil.rmtree(study.cells)
    card = write_model_card(run, study).read_text()
    told = sections(card)
    assert "- **Data set**: not recorded" in told["Data"]
    assert "- **Refused**: not recorded" in told["Data"]
    assert "slice 0 (name not recorded)" in told["What it is"]
    for title in ("How the pictures were made", "Cells unlike those of training"):
        assert told[title].startswith("Not recorded")
    assert told["Cross-validation"].strip() == "Not asked for."
    assert told["Audit of shortcuts"].strip() == "Not asked of this run: run notebook 07."
    assert "What would do without a network: not recorded." in told["Scores"]
    assert "- **Data**: not recorded" in told["Licence"]
    assert "nobody can tell what is magnified alike" in told["What it is for, and what not"]
    assert "None" not in card


def test_a_study_that_was_made_anew_since_is_not_told_as_the_run_s(study, write_run):
    run = write_run()
    write_csv(study.cells / "cells.csv", pd.DataFrame({"id": ["other"]}))
    told = sections(write_model_card(run, study).read_text())
    assert "- **Refused**: not recorded" in told["Data"]
    assert "48 cells of 24 images" in told["Data"]  # of the run itself


def test_an_audit_is_told_only_of_the_weights_that_it_was_of(study, write_run):
    run = write_run()
    write_audit(study, run)
    told = sections(write_model_card(run, study).read_text())
    assert "**1 of 2 questions ring an alarm**" in told["Audit of shortcuts"]
    assert "Does the day tell?" not in told["Audit of shortcuts"]
    uses = told["What it is for, and what not"]
    assert "(alarm: Does the number of cells tell): Dilute." in uses
    assert "a fall on days held out: no sign" in uses
    run.weights_file.write_bytes(b"trained again")
    told = sections(write_model_card(run, study).read_text())
    assert told["Audit of shortcuts"].startswith("Not asked of this run")


def test_uses_follow_from_the_record(study, write_run):
    run = write_run(simulated=True)
    card = write_model_card(run, study).read_text()
    uses = sections(card)["What it is for, and what not"]
    assert provenance.SIMULATED_NOTE in card.partition("##")[0]
    assert "**Anything real**" in uses
    assert "8 of the 8 that it is judged on were in training as well" in uses
    assert "blurred (10.0%)" in uses
    assert "other colours" not in uses
    assert "includes guessing" not in uses
    assert "Fine differences" not in uses


def test_weak_evidence_is_named(study, write_run):
    table = predictions(skill=0.0, images=7, days=[""])
    told = sections(write_model_card(write_run(table), study).read_text())
    uses = told["What it is for, and what not"]
    assert "not recorded for 100% of the samples" in told["Data"]
    assert "few test images of early (7) and late|4 (7)" in uses
    assert "includes guessing" in uses
    assert "**Other days or mice**" in uses
    assert "**Its probabilities at their word**" in uses
    assert told["Calibration"].startswith("None: 14 validation images are too few")


def test_whole_days_held_out_are_no_limit(study, write_run):
    table = predictions()
    table["group"] = table["split"] + table["group"]
    told = sections(write_model_card(write_run(table), study).read_text())
    assert "A promise about days" not in told["What it is for, and what not"]
    assert "none of 24 days or groups" in told["Data"]


def test_without_a_test_subset_the_card_says_so(study, write_run):
    table = predictions()
    told = sections(write_model_card(write_run(table[table["split"] != "test"]), study).read_text())
    assert "**A score to report**" in told["What it is for, and what not"]
    assert "| early   | 48 cells of 24 images | 48 cells of 24 images | none   |" in told["Data"]


def test_what_does_without_a_network_stands_beside_it(study, write_run):
    run = write_run()
    rows = [
        ("the network", None, 0.9, np.nan, ""),
        ("brightness", 3, 0.6, 0.2, ""),
        ("hand-made features", 63, 0.88, -0.1, ""),
        ("cell count", None, np.nan, np.nan, "no cells found yet"),
        ("true traits (ceiling)", 16, 1.0, -0.2, ""),
    ]
    table = pd.DataFrame(rows, columns=["predictor", "features", "auroc", "low", "missing"])
    for key in ("auroc_low", "auroc_high"):
        table[key] = table["auroc"]
    for key in ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"):
        table[key] = table["auroc"]
    table["difference"] = 0.9 - table["auroc"]
    table = table.rename(columns={"low": "difference_low"}).assign(difference_high=0.3)
    write_csv(run.baselines_file, table)
    told = sections(write_model_card(run, study).read_text())
    assert "| hand-made features    | 63 " in told["Scores"]
    uses = told["What it is for, and what not"]
    assert "not shown to be better than hand-made features." in uses


def test_cross_validation_is_told(study, write_run):
    run = write_run()
    folds = run.predictions.assign(split="test", fold=lambda t: np.arange(len(t)) % 4)
    folds.attrs = {
        "folds": 4,
        "group": "",
        "said": "Cross-validation: 4 folds, by image.",
        "key": "",
    }
    folds.to_parquet(run.folds_file)
    told = sections(write_model_card(run, study).read_text())
    assert told["Cross-validation"].startswith("Cross-validation: 4 folds, by image. 288 cells")
    assert "cross-validated" in told["Scores"]


@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("runs/cell/resnet18/seed0/new_images.json", "How the pictures were made"),
        ("runs/cell/resnet18/seed0/baselines.csv", "Scores"),
        ("shortcuts/provenance.json", "Audit of shortcuts"),
        ("shortcuts/audit.csv", "Audit of shortcuts"),
        ("prepared/rejected.csv", "Data"),
        ("prepared/provenance.json", "Data"),
        ("cells/provenance.json", "Data"),
    ],
)
def test_a_damaged_part_counts_as_not_recorded_and_is_named(study, write_run, capsys, part, title):
    run = write_run()
    write_audit(study, run)
    (study.root / part).write_bytes(b'\xff{"')
    told = sections(write_model_card(run, study).read_text())
    assert "ot recorded" in told[title] or told[title].startswith("Not asked of this run")
    assert list(told) == SECTIONS
    name = part.rpartition("/")[2]
    assert f"{name} cannot be read and counts as not recorded" in capsys.readouterr().out


def test_a_run_that_is_not_finished_gets_no_card(study, write_run):
    run = write_run()
    run.scores_file.write_text("{")
    with pytest.raises(DamagedFileError, match=r"metrics\.json"):
        write_model_card(run, study)
    run.record_file.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no provenance\.json"):
        write_model_card(run, study)
    assert not run.card_file.exists()


def test_a_passport_of_an_older_version_is_no_crash(study, write_run):
    run = write_run()
    write_json(run.passport_file, {"side": 48})
    told = sections(write_model_card(run, study).read_text())
    assert "- **Pixel size**: not recorded" in told["How the pictures were made"]
    assert json.loads(run.passport_file.read_text()) == {"side": 48}
