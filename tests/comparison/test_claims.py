"""The page "Did it reproduce?": every claim has an answer, and verdicts follow their rules."""

import itertools
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsc_utils import comparison, paper
from hsc_utils.comparison import answers, claims, write_claims, write_tables
from hsc_utils.comparison.answers import AGREES, BY_DESIGN, DISAGREES, UNKNOWN
from hsc_utils.files import ROOT, write_csv, write_json
from hsc_utils.study import RunConfig, Study, parse_model_name

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]
IMAGES = 60


def predictions(skill: float, seed: int, cells: int) -> pd.DataFrame:
    """Predictions of the cells of test images, or of the images themselves if `cells` is 1."""
    truth = np.repeat(np.arange(IMAGES) % 3, cells)
    logits = np.random.default_rng(seed).normal(size=(len(truth), 3))
    logits[np.arange(len(truth)), truth] += skill
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    image = np.repeat([f"image{k:03d}" for k in range(IMAGES)], cells)
    return pd.DataFrame(
        {
            "id": [f"{name}__{k}" for k, name in enumerate(image)],
            "image_id": image,
            "class": np.array(CLASSES)[truth],
            "split": "test",
            "group": "",
            **{f"p_{name}": chances[:, k] for k, name in enumerate(CLASSES)},
        }
    )


def write_run(
    study: Study, level: str, model: str, skill: float, seed: int = 0, simulated: bool = False
) -> None:
    """A finished run without a model."""
    run = study.run(level, model, seed)
    run.directory.mkdir(parents=True)
    for file in run.results:
        file.touch()
    architecture, channels = parse_model_name(model)
    RunConfig(
        architecture=architecture,
        weights="none",
        input_size=64,
        batch_size=8,
        max_epochs=1,
        patience=1,
        learning_rate=1e-3,
        seed=seed,
        channels=channels,
        level=level,
        class_names=CLASSES,
        weights_used="none",
        mean=[0.5] * len(channels),
        std=[0.2] * len(channels),
        samples_sha256="",
        code_sha256="",
    ).write(run.config_file)
    record = {"weights": "none", "simulated": simulated, "seconds": 1.0, "inputs": {}}
    run.record_file.write_text(json.dumps(record))
    run.scores_file.write_text(json.dumps({"test": {"auroc": 0.5, "balanced_accuracy": 0.5}}))
    # another stream of errors for every run
    drawn = seed + 10 * len(model) + 100 * len(level)
    predictions(skill, drawn, 4 if level == "cell" else 1).to_parquet(run.predictions_file)


def study_of(
    folder: Path, skills: dict[tuple[str, str], float], seeds: int = 3, simulated: bool = False
) -> Study:
    """A study with runs of certain skills by level and model, its images and its tables."""
    study = Study(folder)
    (study.prepared / "images").mkdir(parents=True)
    names = [f"image{k:03d}" for k in range(IMAGES)]
    images = pd.DataFrame({"image_id": names, "class": np.array(CLASSES)[np.arange(IMAGES) % 3]})
    images = images.assign(
        path="images/" + images["image_id"] + ".png",
        split="test",
        group="",
        slices=4,
        sha256="",
        acquired_at="",
        pixel_size_um=0.3,
        height=64,
        width=64,
        source=names,
        bit_depth=12,
        channel_names="",
        objective="",
        simulated=simulated,
        fourth_slice_contrast=0.05,
        near_duplicate_of="",
        mean_r=1.0,
        mean_g=1.0,
        mean_b=1.0,
    )
    for path in images["path"]:
        (study.prepared / path).touch()
    write_csv(study.prepared / "images.csv", images)
    cells = images[["image_id", "class", "split", "group", "simulated"]]
    counts = np.where(cells["class"] == "ST-HSC", 9, 3)
    cells = cells.loc[cells.index.repeat(counts)].reset_index(drop=True)
    cells = cells.assign(cell_id=[f"c{k}" for k in range(len(cells))], row=np.arange(len(cells)))
    write_csv(study.cells / "cells.csv", cells.assign(y=9.0, x=9.0, sigma=8.0, touches=False))
    runs = []
    for (level, model), skill in skills.items():
        for seed in range(seeds):
            write_run(study, level, model, skill, seed, simulated)
            runs.append(study.run(level, model, seed).directory)
    write_tables(study.tables, runs)
    return study


def verdicts(study: Study) -> pd.Series:
    table = write_claims(study)
    return table.set_index("answer")["verdict"]


def test_every_claim_has_an_answer_and_is_shown_somewhere():
    table = paper.claims()
    assert table.index.tolist() == list(range(1, len(table) + 1))
    assert table["answer"].tolist() == list(answers.ANSWERS)
    for place in table["shown"]:
        name, _, section = place.partition("#")
        if name == "tables":
            continue
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
        assert section in slugs, f"{name} has no heading for {section}"


def test_claims_hold_the_papers_numbers_and_no_others():
    table = paper.claims()
    for number, level in ((2, "image"), (4, "cell")):
        reported = paper.scores().loc[(level, "densenet169")]
        values = f"{reported['balanced_accuracy']}; {reported['auroc']}"
        assert table.loc[number, "paper"] == values
    typed = set(re.findall(r"0\.\d{3}", " ".join(table["paper"])))
    assert typed == {"0.869", "0.977", "0.893", "0.995"}


LEADING = {
    ("image", "densenet169"): 2.0,
    ("image", "resnet50"): 0.3,
    ("cell", "densenet169"): 3.0,
    ("cell", "resnet50"): 1.0,
    ("cell", "resnet50-slice0"): 0.2,
}


def test_the_best_backbone_agrees_only_if_it_is_surely_ahead(tmp_path):
    ahead = verdicts(study_of(tmp_path / "ahead", LEADING))
    assert ahead[["best_image", "best_cell"]].tolist() == [AGREES, AGREES]
    behind = LEADING | {("image", "densenet169"): 0.2, ("image", "resnet50"): 2.0}
    assert verdicts(study_of(tmp_path / "behind", behind))["best_image"] == DISAGREES
    alike = LEADING | {("image", "densenet169"): 1.0, ("image", "resnet50"): 1.0}
    assert verdicts(study_of(tmp_path / "alike", alike))["best_image"] == UNKNOWN
    once = write_claims(study_of(tmp_path / "once", LEADING, seeds=1)).set_index("answer")
    assert once.loc["best_cell", "verdict"] == UNKNOWN
    assert "trained once" in once.loc["best_cell", "why"]


def test_the_lowest_backbone_is_that_of_lowest_score_not_of_widest_interval(monkeypatch):
    rows = [
        ("resnet18", "", 0.90, 0.88, 0.92),
        ("densenet121", "", 0.99, 0.70, 1.00),
        ("densenet121", "resnet18", 0.01, -0.02, 0.03),
    ]
    table = pd.DataFrame(rows, columns=["model", "against", "estimate", "low", "high"])
    monkeypatch.setattr(answers, "_finished", lambda *_: None)
    monkeypatch.setattr(answers, "_compared", lambda _: table.assign(score="auroc"))
    answer = answers.ANSWERS["alike_image"](None)
    assert "the lowest, ResNet-18: AUROC 0.900" in answer.ours
    assert answer.verdict == UNKNOWN  # the other one is not surely above 0.8


def test_cells_that_vote_are_judged_on_the_same_images(tmp_path):
    study = study_of(tmp_path / "a", LEADING | {("image", "densenet169"): 1.0})
    table = write_claims(study).set_index("answer")
    assert table.loc["cells_against_images", "verdict"] == AGREES
    why = table.loc["cells_against_images", "why"]
    assert f"here {IMAGES} images" in why and "tell them by counting" in why
    turned = LEADING | {("image", "densenet169"): 6.0, ("cell", "densenet169"): 0.0}
    assert verdicts(study_of(tmp_path / "b", turned))["cells_against_images"] == DISAGREES


@pytest.mark.parametrize("distance", [0.0, 0.2])
def test_scores_agree_if_they_lie_in_the_interval(tmp_path, monkeypatch, distance):
    study = study_of(tmp_path / "real", LEADING)
    table = write_claims(study).set_index("answer")
    found = re.findall(r"(\d\.\d{3}) \(", table.loc["score_cell", "ours"])
    reported = paper.scores().assign(source="")
    own = {"balanced_accuracy": float(found[0]) - distance, "auroc": float(found[1])}
    reported.loc[("cell", "densenet169"), list(own)] = list(own.values())
    monkeypatch.setattr(paper, "scores", lambda: reported)
    assert verdicts(study)["score_cell"] == (DISAGREES if distance else AGREES)
    simulated = study_of(tmp_path / "simulated", LEADING, simulated=True)
    assert verdicts(simulated)["score_cell"] == UNKNOWN


def test_another_densenet_stands_in_and_is_named(tmp_path):
    study = study_of(tmp_path, {("cell", "densenet121"): 2.0, ("cell", "resnet18"): 0.2})
    table = write_claims(study).set_index("answer")
    assert table.loc["best_cell", "ours"].startswith("DenseNet-121 minus ResNet-18")
    assert table.loc["score_cell", "verdict"] == UNKNOWN
    assert (
        "For cells, DenseNet-169 was not trained here; DenseNet-121 stands"
        in (study.tables / "claims.md").read_text()
    )


def test_sensitivities_in_another_order_disagree(tmp_path):
    study = study_of(tmp_path, LEADING)
    for seed in range(3):
        run = study.run("cell", "densenet169", seed)
        table = predictions(2.0, seed, 4)
        hard = table["class"] == "ST-HSC"
        columns = [f"p_{name}" for name in CLASSES]
        table.loc[hard, columns] = table.loc[hard, columns].to_numpy()[:, [1, 0, 2]]
        table.to_parquet(run.predictions_file)
    assert verdicts(study)["sensitivities"] == DISAGREES


def add_comparison(study: Study) -> None:
    models = ["resnet50-slice0", "resnet50", "densenet169"]
    runs = comparison.find_runs(study, "cell", models)
    fewer = comparison.find_runs_on_slices(study, "cell", "resnet50")
    tables = []
    for found, baseline in ((runs, None), (fewer, "resnet50")):
        read = comparison.read_predictions(found)
        tables.append(
            comparison.compare(comparison.leave_one_out_scores(found, read), 0.95, baseline)
        )
    for name, table in zip(("comparison", "slices"), comparison.holm(*tables), strict=True):
        write_csv(study.comparison / f"{name}.csv", table)


def test_order_and_slices_follow_notebook_05(tmp_path):
    study = study_of(tmp_path / "a", LEADING)
    add_comparison(study)
    table = write_claims(study).set_index("answer")
    assert table.loc["order_of_three", "verdict"] == AGREES
    assert table.loc["slices", "verdict"] == UNKNOWN
    assert "Not trained alone: slice 1, 2" in table.loc["slices", "why"]
    every = LEADING | {("cell", "resnet50-slice1"): 0.1, ("cell", "resnet50-slice2"): 0.3}
    study = study_of(tmp_path / "b", every)
    add_comparison(study)
    assert verdicts(study)["slices"] == AGREES
    write_json(study.comparison / "status.json", {"failed": "no memory"})
    table = write_claims(study).set_index("answer")
    assert "notebook 05 failed: no memory" in table.loc["slices", "why"]


def add_detectors(study: Study, **gaps: tuple[float, float, float]) -> None:
    """Differences in F1 by pair, and in precision of LoG minus DoG."""
    rows = [
        ("log", "dog", "f1", *gaps["log_dog"], 12),
        ("doh", "log", "f1", *gaps["doh_log"], 12),
        ("dog", "doh", "f1", *gaps["dog_doh"], 12),
        *(
            (one, other, "precision", *gaps["precision"], 12)
            for one, other in itertools.combinations(["log", "dog", "doh"], 2)
        ),
    ]
    columns = ["method", "against", "score", "estimate", "low", "high", "images"]
    write_csv(study.cells / "method_differences.csv", pd.DataFrame(rows, columns=columns))
    methods = pd.DataFrame({"method": ["log", "dog", "doh"], "found_twice": [0, 3, 1]})
    write_csv(study.cells / "methods.csv", methods)


def test_detectors_are_judged_by_intervals(tmp_path):
    study = study_of(tmp_path, LEADING)
    same, worse = (0.0, np.nan, np.nan), (-0.1, -0.2, -0.05)
    better = (0.1, 0.05, 0.2)
    add_detectors(study, log_dog=same, doh_log=worse, dog_doh=better, precision=better)
    assert verdicts(study)[["detectors", "false_alarms"]].tolist() == [AGREES, AGREES]
    add_detectors(study, log_dog=same, doh_log=better, dog_doh=better, precision=same)
    assert verdicts(study)[["detectors", "false_alarms"]].tolist() == [DISAGREES, DISAGREES]
    wide = (0.02, -0.1, 0.14)
    add_detectors(study, log_dog=wide, doh_log=worse, dog_doh=better, precision=wide)
    assert verdicts(study)[["detectors", "false_alarms"]].tolist() == [UNKNOWN, UNKNOWN]
    table = pd.read_csv(study.cells / "method_differences.csv").assign(images=4)
    write_csv(study.cells / "method_differences.csv", table)
    assert verdicts(study)["detectors"] == UNKNOWN
    write_csv(study.cells / "method_differences.csv", table.head(0))
    table = write_claims(study).set_index("answer")
    assert "mark the cells of some images by hand" in table.loc["detectors", "why"]


def add_attention(study: Study, strides: list[int], excess: float) -> None:
    numbers = {"share": 0.2 + excess, "area": 0.2, "excess": excess}
    numbers |= {"share_neighbours": 0.03, "area_neighbours": 0.04}
    rows = [
        (stride, "all classes", name, mean, mean - 0.01, mean + 0.01, "cell")
        for stride in strides
        for name, mean in numbers.items()
    ]
    rows += [
        (np.nan, "all classes", name, 0.1, 0.05, 0.15, "image")
        for name in ("excess", "gini_excess")
    ]
    columns = ["stride", "class", "number", "mean", "low", "high", "level"]
    write_csv(study.grad_cam / "means.csv", pd.DataFrame(rows, columns=columns))
    weights = [study.run(level, "densenet169", 0).weights_file for level in ("cell", "image")]
    write_json(study.grad_cam / "provenance.json", {"inputs": dict.fromkeys(map(str, weights), "")})


def test_a_grid_of_two_squares_cannot_show_what_lies_inside(tmp_path):
    study = study_of(tmp_path, LEADING)
    add_attention(study, [32, 16, 8], 0.16)
    table = write_claims(study).set_index("answer")
    answer = table.loc["attention_on_cells"]
    assert answer["verdict"] == BY_DESIGN and "grid of 2 × 2 squares" in answer["why"]
    assert answer["ours"].startswith("stride 16: 0.36 of it on 0.20")
    headline = (study.tables / "claims.md").read_text().split("| ")[0]
    assert "whatever the data:** At 64 px the layer" in headline
    assert table.loc["attention_on_images", "verdict"] == AGREES
    assert "How far a count alone gets" in table.loc["attention_on_images", "why"]
    add_attention(study, [32], 0.16)
    assert verdicts(study)["attention_on_cells"] == UNKNOWN


@pytest.mark.parametrize(("excess", "verdict"), [(0.16, AGREES), (-0.1, DISAGREES), (0.0, UNKNOWN)])
def test_a_fine_grid_can(tmp_path, excess, verdict):
    study = study_of(tmp_path, LEADING)
    run = study.run("cell", "densenet169", 0)
    config = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(config | {"input_size": 224}))
    add_attention(study, [32, 16], excess)
    assert verdicts(study)["attention_on_cells"] == verdict


def test_a_count_is_set_beside_the_network_where_it_was_measured(tmp_path):
    study = study_of(tmp_path, LEADING)
    numbers = {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 0.95}
    numbers |= {"difference": 0.05, "difference_low": -0.01, "difference_high": 0.11}
    table = pd.DataFrame([{"predictor": "cell count"} | numbers])
    write_csv(study.run("image", "densenet169", 0).baselines_file, table)
    why = write_claims(study).set_index("answer").loc["cells_against_images", "why"]
    assert "The count alone reaches an AUROC of 0.900 (0.800 to 0.950)" in why
    assert "DenseNet-169 adds +0.050 (-0.010 to +0.110)" in why


def test_what_is_missing_is_said_and_stops_nothing(tmp_path):
    study = Study(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="make the tables first"):
        write_claims(study)
    study = study_of(tmp_path / "images alone", {("image", "resnet18"): 1.0})
    table = write_claims(study).set_index("answer")
    settled = {"fourth_slice": AGREES, "cutting_out": BY_DESIGN}
    for key, verdict in table["verdict"].items():
        assert verdict == settled.get(key, UNKNOWN), key
    assert (table["why"].str.len() > 20).all()
    assert "No DenseNet was trained on cells" in table.loc["score_cell", "why"]
    assert "means.csv is missing: notebook 06" in table.loc["attention_on_cells", "why"]


def test_no_verdict_of_a_simulation_can_be_taken_for_one_on_the_paper(tmp_path):
    study = study_of(tmp_path / "simulated", LEADING, simulated=True)
    verdicts(study)
    page = (study.tables / "claims.md").read_text()
    assert "Simulated demo data" in page and "It says nothing about the paper" in page
    assert "| Verdict on these simulated data" in page
    rows = [line for line in page.splitlines() if line.startswith('| <a href="#claim-')]
    assert len(rows) == len(paper.claims())
    judged = [row for row in rows if re.search(r"</span> (dis)?agrees", row)]
    assert judged and all("agrees (simulated)" in row for row in judged)
    real = study_of(tmp_path / "real", LEADING)
    verdicts(real)
    page = (real.tables / "claims.md").read_text()
    assert "imulated" not in page.split("## Claim by claim")[0] and "| Verdict " in page


@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=5
    )
)
def test_a_direction_is_claimed_only_beyond_chance_and_with_several_trainings(rows):
    table = pd.DataFrame(rows, columns=["estimate", "p_holm", "seeds"])
    verdict, _ = answers._direction(table)
    if verdict == AGREES:
        assert (table["estimate"] > 0).all() and (table["p_holm"] < 0.05).all()
    if verdict == DISAGREES:
        assert ((table["estimate"] < 0) & (table["p_holm"] < 0.05)).any()
    if verdict != UNKNOWN:
        assert table["seeds"].min() > 1
    assert verdict in claims.VERDICTS


def test_a_bar_or_a_tag_in_a_reason_does_not_break_the_table(tmp_path):
    assert claims._cell("a | b < c\nd") == "a / b &lt; c d"


def test_alarms_of_the_audit_stand_on_the_page(tmp_path):
    study = study_of(tmp_path / "study", {("image", "resnet18"): 1.0})
    page = study.tables / "claims.md"
    write_claims(study)
    assert "No audit of shortcuts" in page.read_text()
    row = {"level": "cell", "question": "Does the day tell?", "measured": "AUROC of the day"}
    numbers = {"estimate": 0.9, "low": 0.8, "high": 0.95}
    audit = pd.DataFrame([row | numbers | {"verdict": "alarm"}] * 2)
    audit.loc[1, "verdict"] = "no sign"
    write_csv(study.shortcuts / "audit.csv", audit)
    write_claims(study)
    assert "asks 2 questions of the networks here: 1 × alarm, 1 × no sign" in page.read_text()
    assert (
        "**Alarm, cells:** Does the day tell? AUROC of the day: 0.900 (0.800 to 0.950)."
        in page.read_text()
    )
