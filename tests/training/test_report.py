from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hsc_utils import metrics, paper
from hsc_utils.files import ROOT, write_json
from hsc_utils.study import Run, RunConfig
from hsc_utils.training import figures, report
from hsc_utils.training.judge import calibrate, score_predictions

CLASSES = ["a", "b"]
CONFIG = RunConfig(
    architecture="densenet169",
    weights="none",
    input_size=32,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=CLASSES,
    weights_used="none",
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    samples_sha256="",
    code_sha256="",
)


@pytest.fixture
def predictions():
    """Two cells in each of six images; one image of each class is wrong, with confidence."""
    rows = []
    for image, (true, p_a) in enumerate([("a", 0.9), ("a", 0.7), ("a", 0.2)]):
        rows += [(f"{image}_{k}", f"i{image}", true, "test", p_a + k / 20) for k in (0, 1)]
    for image, (true, p_a) in enumerate([("b", 0.1), ("b", 0.3), ("b", 0.9)], start=3):
        rows += [(f"{image}_{k}", f"i{image}", true, "test", p_a - k / 20) for k in (0, 1)]
    table = pd.DataFrame(rows, columns=["id", "image_id", "class", "split", "p_a"])
    return table.assign(p_b=1 - table["p_a"], group="")


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes what `report` reads of a run."""

    def write(name, predictions, scores=None, **changes):
        run = Run(tmp_path / name)
        replace(CONFIG, **changes).write(run.config_file)
        predictions.to_parquet(run.predictions_file)
        write_json(run.scores_file, scores or score_predictions(predictions, CLASSES))
        judged = predictions.assign(split="validation")
        write_json(run.calibration_file, calibrate(pd.concat([predictions, judged]), CLASSES))
        return run

    return write


def several(predictions, times):
    """Repeat the images under other names, so that there are enough for an interval."""
    copies = [
        predictions.assign(
            image_id=f"copy{k}_" + predictions["image_id"], id=f"{k}" + predictions["id"]
        )
        for k in range(times)
    ]
    return pd.concat(copies, ignore_index=True)


@pytest.fixture
def run(write_run, predictions):
    return write_run("run", predictions)


def test_votes_are_the_mean_of_an_images_cells(run):
    votes = report.vote(run).set_index("image_id")
    assert votes.loc["i0", "p_a"] == pytest.approx(0.925)
    assert votes.index.tolist() == [f"i{k}" for k in range(6)]
    assert np.allclose(votes[["p_a", "p_b"]].sum(axis=1), 1)


def test_the_most_confident_mistakes_come_first(run):
    wrong = report.confident_mistakes(run, count=3)
    assert wrong["id"].tolist() == ["5_0", "5_1", "2_0"]
    assert wrong["predicted"].tolist() == ["a", "a", "b"]
    assert (run.predictions.loc[wrong.index, "id"] == wrong["id"]).all()


def test_the_sentence_counts_what_the_table_holds(run):
    text = " ".join(report.sentences(run))
    assert "Of 12 test cells, 67% are given their class" in text
    assert "(always naming the commonest would reach 50%)" in text
    assert "(2 of 6)" in text


def test_the_sentence_admits_guessing_and_absent_classes(write_run, run):
    chance = np.random.default_rng(0).uniform(size=60)
    table = several(run.predictions, 5).assign(p_a=chance, p_b=1 - chance)
    assert "includes guessing" in " ".join(report.sentences(write_run("guesses", table)))
    assert "3 independent image(s): too few for an interval" in " ".join(report.sentences(run))
    scores = {"test": run.scores["test"] | {"left_out": ["c"]}}
    absent = write_run("absent", run.predictions, scores)
    assert "No test sample belongs to c" in " ".join(report.sentences(absent))


def test_the_papers_scores_stand_beside_its_own_model_only(write_run, run):
    name = "the paper's balanced accuracy (the paper's), on its own data"
    assert report.score_table(run).loc[name, "value"] == "0.893"
    other = write_run("other", run.predictions, architecture="resnet18")
    assert not report.score_table(other).index.str.contains("its own data").any()


def test_levels_are_compared_on_the_images_both_know(write_run, run, tmp_path):
    alone = report.levels_side_by_side(run, Run(tmp_path / "missing"))
    assert alone.index.tolist() == ["cells, voted into images"]
    votes = report.vote(run)
    both = report.levels_side_by_side(run, write_run("fewer", votes.drop(index=0)))
    assert both["images"].tolist() == [5, 5, 5]
    assert (both.loc["difference"].iloc[1:] == "too few images to say").all()
    many = write_run("many", several(run.predictions, 5))
    equal = report.levels_side_by_side(many, write_run("same", report.vote(many)))
    assert equal.loc["difference"].iloc[1:].str.contains("not told apart").all()
    better = report.vote(many)
    right = (better["class"] == "a").astype(float)
    noise = np.random.default_rng(0).uniform(0, 0.2, len(better))
    better = better.assign(p_a=abs(right - noise), p_b=1 - abs(right - noise))
    apart = report.levels_side_by_side(many, write_run("better", better))
    assert "beyond the choice of images" in apart.loc["difference"].iloc[1]
    others = write_run("others", votes.assign(image_id="other_" + votes["image_id"]))
    strangers = report.levels_side_by_side(run, others)
    assert strangers.index.tolist() == ["cells, voted into images"]
    with pytest.raises(ValueError, match="another split"):
        report.levels_side_by_side(run, write_run("split", votes.assign(split="train")))


def test_curves_agree_with_the_scores(write_run, run):
    curves = report.curves(run)
    for name in CLASSES:
        area = np.trapezoid(curves[name]["tpr"], curves[name]["fpr"])
        assert area == pytest.approx(run.scores["test"]["per_class"][name]["auroc"])
        assert curves[name]["share"] == 0.5
    assert list(report.curves(write_run("one", run.predictions, class_names=["a"]))) == ["a"]


def test_reliability_counts_every_test_sample(write_run, run):
    with_others = pd.concat([run.predictions, run.predictions.assign(split="train")])
    table = report.reliability(write_run("more", with_others))
    assert table["samples"].sum() == 12
    assert (table["accuracy"] * table["samples"]).sum() == pytest.approx(8)


def test_calibration_is_shown_before_and_after_and_explained(write_run, predictions):
    few = write_run("few", predictions)
    assert "not calibrated: 6 validation images are too few: 20" in " ".join(report.sentences(few))
    assert set(report.reliability(few)["probabilities"].str[:12]) == {"as predicted"}
    bold = several(predictions, 6)
    run = write_run("bold", bold)
    before, after = run.calibration["ece_before"], run.calibration["ece_after"]
    temperature = run.calibration["temperature"]
    # two of six images are wrong with confidence
    assert temperature > 1.2 and after < before
    table = report.score_table(run)["value"]
    assert table[f"expected calibration error, with temperature {temperature:.2f}"] == (
        f"{after:.3f}"
    )
    assert table["expected calibration error"] == f"{before:.3f}"
    points = report.reliability(run)
    raw, tempered = points["probabilities"].unique()
    assert raw == f"as predicted: error {before:.3f}"
    assert tempered == f"with temperature {temperature:.2f}: error {after:.3f}"
    gaps = points["samples"] * (points["confidence"] - points["accuracy"]).abs()
    by_hand = gaps.groupby(points["probabilities"]).sum() / len(bold)
    assert by_hand[[raw, tempered]].tolist() == pytest.approx([before, after])
    assert f"A temperature of {temperature:.2f} calibrates" in " ".join(report.sentences(run))
    figure = figures.reliability(points)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [raw, tempered]


def test_a_temperature_says_when_it_stands_on_little(write_run, predictions):
    table = several(predictions, 6)
    right = table[table["image_id"].str.contains("i0|i3")]
    more = right.assign(image_id="more_" + right["image_id"])
    sure = write_run("right", pd.concat([right, more]))
    assert "No validation sample is wrong, so it is held near 1" in report.sentences(sure)[-1]
    alone = write_run("alone", table.assign(split="validation"))
    assert "fitted on the very samples that it is judged on" in " ".join(report.sentences(alone))
    one = table.assign(**{"class": "a"})
    assert calibrate(one.assign(split="validation"), CLASSES)["reason"] == (
        "all validation images are of one class"
    )


@pytest.mark.parametrize(
    ("level", "name"), [("image", "03_image_level_training"), ("cell", "04_cell_level_training")]
)
def test_what_the_notebooks_say_of_the_papers_scores_follows_from_them(level, name):
    counts = paper.counts()[f"{level}s"]
    sensitivity = np.array([0.9, 0.8, 0.6])  # any three, of equally common classes
    confusion = np.diag(100 * sensitivity) + (1 - np.eye(3)) * 50 * (1 - sensitivity)[:, None]
    balanced = metrics.scores_of_confusion(confusion[None])["balanced_accuracy"][0]
    assert (4 * balanced - 1) / 3 == pytest.approx(sensitivity.mean())
    reported = paper.scores().loc[(level, "densenet169"), "balanced_accuracy"]
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert f"the paper's {reported:.3f} would stand" in text
    assert f"a mean sensitivity of about {(4 * reported - 1) / 3:.3f}" in text
    share = f"{counts['ST-HSC'] / counts.sum():.1%}".replace("%", " %")
    assert counts.idxmax() == "ST-HSC"
    assert f"right for {share} of the paper's {level}s" in text
    assert f"({counts['ST-HSC']:,} of {counts.sum():,})" in text
