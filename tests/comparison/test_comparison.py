import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from hsc_utils import comparison, metrics
from hsc_utils.comparison import figures
from hsc_utils.comparison.compare import SCORES, holm
from hsc_utils.study import Run, RunConfig, Study, parse_model_name, tabulate_runs

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


def predictions(skill: float, seed: int, images: int = 30, cells: int = 8) -> pd.DataFrame:
    """Random predictions that lean towards the truth by `skill`; the truth has its own seed."""
    truth = np.repeat(np.random.default_rng(0).permutation(np.arange(images) % 3), cells)
    logits = np.random.default_rng(seed).normal(size=(images * cells, 3))
    logits[np.arange(len(truth)), truth] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    image = np.repeat([f"image{k:03d}" for k in range(images)], cells)
    return pd.DataFrame(
        {
            "id": [f"{name}__{k:04d}" for k, name in enumerate(image)],
            "image_id": image,
            "class": np.array(CLASSES)[truth],
            "split": "test",
            **{f"p_{name}": probabilities[:, k] for k, name in enumerate(CLASSES)},
        }
    )


def write_run(
    folder: Path, model: str, table: pd.DataFrame, seed: int = 0, level: str = "cell", **config
) -> Run:
    """A finished run in a study, without a model."""
    run = Study(folder).run(level, model, seed)
    run.directory.mkdir(parents=True)
    for file in run.results:
        file.touch()
    architecture, channels = parse_model_name(model)
    settings = {
        "architecture": architecture,
        "weights": "none",
        "input_size": 64,
        "batch_size": 8,
        "max_epochs": 1,
        "patience": 1,
        "learning_rate": 1e-3,
        "seed": seed,
        "channels": channels,
        "level": level,
        "class_names": CLASSES,
        "weights_used": "none",
        "mean": [0.5] * len(channels),
        "std": [0.2] * len(channels),
        "samples_sha256": "",
        "code_sha256": "",
    }
    RunConfig(**settings | config).write(run.config_file)
    write_record(run)
    run.scores_file.write_text(json.dumps({"test": {"auroc": 0.5}}))
    table.to_parquet(run.predictions_file)
    return run


def write_record(run: Run, simulated: bool = True, **inputs: str) -> None:
    record = {"weights": "none", "simulated": simulated, "seconds": 1.0, "inputs": inputs}
    run.record_file.write_text(json.dumps(record))


def scored(*runs: Run, **settings) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    table = tabulate_runs(runs)
    predicted = comparison.read_predictions(table)
    return table, comparison.resampled_scores(table, predicted, **settings), predicted


def delong_covariance(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Covariance of two correlated AUROCs by DeLong et al. 1988, cell by cell."""
    by_positive, by_negative = [], []
    for score in (first, second):
        difference = score[positive][:, None] - score[~positive][None]
        kernel = (difference > 0) + 0.5 * (difference == 0)
        by_positive.append(kernel.mean(axis=1))
        by_negative.append(kernel.mean(axis=0))
    return np.cov(by_positive) / positive.sum() + np.cov(by_negative) / (~positive).sum()


class TestScores:
    def test_first_row_is_the_test_set_itself(self, tmp_path):
        table = predictions(1.0, seed=1)
        _, scores, _ = scored(write_run(tmp_path, "resnet18", table), resamples=20)
        expected = metrics.score(
            table["class"], metrics.probability_matrix(table, CLASSES), CLASSES
        )
        for key in SCORES:
            assert scores["resnet18", 0, key].iloc[0] == pytest.approx(expected[key])
        for name in CLASSES:
            auroc = expected["per_class"][name]["auroc"]
            assert scores["resnet18", 0, f"auroc {name}"].iloc[0] == pytest.approx(auroc)
        assert len(scores) == 21 and len(comparison.compare(scores)) == 5

    def test_repeats_are_averaged(self, tmp_path):
        runs = [write_run(tmp_path, "resnet18", predictions(1, k), seed=k) for k in (1, 2, 3)]
        _, scores, tables = scored(*runs, resamples=5)
        each = [
            metrics.score(t["class"], metrics.probability_matrix(t, CLASSES), CLASSES)["auroc"]
            for t in tables
        ]
        row = comparison.compare(scores).set_index("score").loc["auroc"]
        assert row["estimate"] == pytest.approx(np.mean(each)) and row["seeds"] == 3
        assert (row["seed_low"], row["seed_high"]) == pytest.approx((min(each), max(each)))

    def test_spread_agrees_with_delong_where_images_hold_one_cell(self, tmp_path):
        noise = predictions(0, seed=5, images=300, cells=1)
        good, poor = predictions(1.5, 1, 300, 1), predictions(0.7, 2, 300, 1)
        for table in (good, poor):  # shared noise makes the models' errors correlate
            shared = [f"p_{name}" for name in CLASSES]
            mixed = np.sqrt(table[shared] * noise[shared])
            table[shared] = mixed.div(mixed.sum(axis=1), axis=0)
        runs = write_run(tmp_path, "resnet18", good), write_run(tmp_path, "resnet50", poor)
        _, scores, _ = scored(*runs, resamples=4000)
        gaps = scores["resnet18", 0, "auroc MPP"] - scores["resnet50", 0, "auroc MPP"]
        covariance = delong_covariance(
            (good["class"] == "MPP").to_numpy(), good["p_MPP"].to_numpy(), poor["p_MPP"].to_numpy()
        )
        expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert gaps.iloc[1:].std() == pytest.approx(expected, rel=0.08)

    def test_more_copies_of_the_same_cells_do_not_narrow_an_interval(self, tmp_path):
        table = predictions(1.0, seed=1)
        copies = pd.concat([table.assign(id=table["id"] + f"_{k}") for k in range(5)])
        rows = []
        for name, cells in (("once", table), ("copied", copies)):
            _, scores, _ = scored(write_run(tmp_path, name, cells), resamples=300)
            rows.append(comparison.compare(scores)[["estimate", "low", "high"]])
        pd.testing.assert_frame_equal(*rows)

    def test_a_class_without_test_samples_is_left_out(self, tmp_path):
        table = predictions(1.0, seed=1)
        table = table[table["class"] != "MPP"]
        runs, scores, tables = scored(write_run(tmp_path, "resnet18", table), resamples=20)
        assert set(scores["resnet18", 0]) == {*SCORES, "auroc LT-HSC", "auroc ST-HSC"}
        assert not comparison.compare(scores)[["estimate", "low", "high"]].isna().any(axis=None)
        assert {name for _, name in comparison.roc_curves(runs, tables)} == {"LT-HSC", "ST-HSC"}


class TestDifferences:
    def test_a_model_does_not_differ_from_its_copy(self, tmp_path):
        table = predictions(1.0, seed=1)
        runs = write_run(tmp_path, "resnet18", table), write_run(tmp_path, "resnet50", table)
        _, scores, _ = scored(*runs, resamples=100)
        rows = comparison.compare(scores).query("against != ''")
        assert (rows[["estimate", "low", "high"]] == 0).all(axis=None)
        assert (rows["p_holm"] == 1).all()
        assert "within the noise" in comparison.verdict(rows.iloc[0])

    def test_pairing_makes_a_difference_surer_than_the_scores(self, tmp_path):
        better, worse = predictions(2.0, seed=1), predictions(0.5, seed=1)
        runs = write_run(tmp_path, "resnet18", worse), write_run(tmp_path, "densenet169", better)
        _, scores, _ = scored(*runs, resamples=500)
        table = comparison.compare(scores).set_index(["model", "against", "score"])
        row = table.loc["densenet169", "resnet18", "auroc"]
        assert row.low < row.estimate < row.high and row.low > 0 and row.p_holm < 0.05
        width = row.high - row.low
        alone = table.loc[[("resnet18", "", "auroc"), ("densenet169", "", "auroc")]]
        assert width < np.hypot(*(alone["high"] - alone["low"]))
        row = table.reset_index().query("against == 'resnet18' and score == 'auroc'").iloc[0]
        assert "higher by more than chance" in comparison.verdict(row)

    def test_order_of_the_runs_only_flips_the_sign(self, tmp_path):
        runs = [write_run(tmp_path, f"model{k}", predictions(1, k)) for k in (1, 2)]
        forwards, backwards = (
            comparison.compare(scores).query("against != ''").reset_index(drop=True)
            for _, scores, _ in (scored(*runs, resamples=50), scored(*runs[::-1], resamples=50))
        )
        np.testing.assert_allclose(forwards["estimate"], -backwards["estimate"])
        np.testing.assert_allclose(forwards["low"], -backwards["high"])
        np.testing.assert_allclose(forwards["p"], backwards["p"])

    def test_against_one_baseline_only(self, tmp_path):
        runs = [write_run(tmp_path, f"model{k}", predictions(1, k)) for k in (1, 2, 3)]
        _, scores, _ = scored(*runs, resamples=50)
        every, few = (comparison.compare(scores, baseline=r) for r in (None, "model2"))
        assert len(every.query("against != ''")) == 2 * 3
        assert set(few.query("against != ''")["model"]) == {"model2"}
        assert set(few["against"]) == {"", "model1", "model3"}
        corrected = few.query("against != ''").groupby("score")["p"].transform(holm)
        assert few.query("against != ''")["p_holm"].tolist() == corrected.tolist()

    def test_one_seed_says_so_and_several_must_agree(self, tmp_path):
        good = [predictions(2.0, seed=k) for k in range(3)]
        poor = [predictions(skill, seed=9 + k) for k, skill in enumerate((0.3, 0.3, 3.5))]
        once = [write_run(tmp_path / "a", m, t[0]) for m, t in (("m", poor), ("n", good))]
        _, scores, _ = scored(*once, resamples=300)
        row = comparison.compare(scores).query("against != '' and score == 'auroc'").iloc[0]
        assert "with one training each" in comparison.verdict(row)
        runs = [
            write_run(tmp_path / "b", m, t, seed=k)
            for m, tables in (("m", poor), ("n", good))
            for k, t in enumerate(tables)
        ]
        _, scores, _ = scored(*runs, resamples=300)
        each = scores.iloc[0].loc["n", :, "auroc"] - scores.iloc[0].loc["m", :, "auroc"]
        row = comparison.compare(scores).query("against != '' and score == 'auroc'").iloc[0]
        assert row["seeds"] == 3 and each.loc[2] < 0 < each.loc[0]
        assert (row["seed_low"], row["seed_high"]) == (each.min(), each.max())
        assert row["estimate"] == pytest.approx(each.mean()) and row["p_holm"] < 0.05
        assert "not the same way with every seed" in comparison.verdict(row)
        _, scores, _ = scored(*[d for d in runs if d.seed != 2], resamples=300)
        row = comparison.compare(scores).query("against != '' and score == 'auroc'").iloc[0]
        assert row["seeds"] == 2 and "and with every seed" in comparison.verdict(row)

    def test_no_difference_is_rarely_called_one(self, tmp_path):
        """Of many pairs of equally good models, few may have a p-value below 0.05."""
        runs = [write_run(tmp_path, f"m{k}", predictions(1, k, cells=3)) for k in range(30)]
        _, scores, _ = scored(*runs, resamples=400)
        table = comparison.compare(scores).query("against != '' and score == 'auroc'")
        pairs = [(f"m{k + 1}", f"m{k}") for k in range(0, 30, 2)]
        independent = table.set_index(["model", "against"]).loc[pairs]
        assert len(independent) == 15 and (independent["p"] < 0.05).sum() <= 4
        assert (table["p_holm"] >= table["p"]).all()

    def test_holm_by_hand(self):
        corrected = holm(pd.Series([0.04, 0.01, 0.03, np.nan]))
        np.testing.assert_allclose(corrected, [0.06, 0.03, 0.06, np.nan])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_holm_is_between_nothing_and_bonferroni(self, values):
        raw = pd.Series(values)
        corrected = holm(raw)
        assert (corrected >= raw).all()
        assert (corrected <= np.minimum(1, raw * len(raw)) + 1e-12).all()
        ranks = raw.rank(method="first").astype(int).sort_values().index
        assert corrected[ranks].is_monotonic_increasing


class TestRefusals:
    def test_other_cells(self, tmp_path):
        table = predictions(1.0, seed=1)
        runs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", table.iloc[3:])
        with pytest.raises(comparison.ComparisonError, match=r"3 only in .*seed0, such as image"):
            comparison.read_predictions(tabulate_runs(runs))

    def test_other_labels(self, tmp_path):
        table = predictions(1.0, seed=1)
        other = table.assign(**{"class": table["class"].mask(table.index == 7, "MPP")})
        other.loc[7, "class"] = "MPP" if table.loc[7, "class"] != "MPP" else "LT-HSC"
        runs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", other)
        with pytest.raises(comparison.ComparisonError, match="1 with another class, such as"):
            comparison.read_predictions(tabulate_runs(runs))

    def test_other_images(self, tmp_path):
        table = predictions(1.0, seed=1)
        other = table.assign(image_id=table["image_id"].replace("image003", "image004"))
        runs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", other)
        with pytest.raises(comparison.ComparisonError, match="8 with another image_id, such as"):
            comparison.read_predictions(tabulate_runs(runs))

    def test_other_pixels_of_the_same_cells(self, tmp_path):
        table = predictions(1.0, seed=1)
        runs = [write_run(tmp_path, name, table) for name in ("a", "b", "c")]
        for run, sha in zip(runs, ("1" * 64, "1" * 64, "2" * 64), strict=True):
            write_record(run, **{"x/patches.npy": sha})
        assert len(comparison.read_predictions(tabulate_runs(runs[:2]))) == 2
        with pytest.raises(
            comparison.ComparisonError, match=r"two versions of patches\.npy .*11111111…"
        ):
            comparison.read_predictions(tabulate_runs(runs))

    def test_other_training_samples_of_the_same_test_set(self, tmp_path):
        table = predictions(1.0, seed=1)
        hashes, sizes = ("1", "1", "2", "3"), (64, 64, 64, 32)
        both = list(zip(hashes, sizes, strict=True))
        for level in ("cell", "image"):
            runs = [
                write_run(
                    tmp_path, f"m{k}", table, level=level, samples_sha256=sha, input_size=size
                )
                for k, (sha, size) in enumerate(both)
            ]
            with pytest.raises(comparison.ComparisonError, match=r"m0/seed0 and .*m2/seed0 were"):
                comparison.read_predictions(tabulate_runs(runs[:3]))
        # images are hashed as each network resized them
        assert len(comparison.read_predictions(tabulate_runs([runs[0], runs[3]]))) == 2

    def test_other_order_is_no_difference(self, tmp_path):
        table = predictions(1.0, seed=1)
        runs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", table.iloc[::-1])
        first, second = comparison.read_predictions(tabulate_runs(runs))
        pd.testing.assert_frame_equal(first, second)

    def test_other_level_or_classes(self, tmp_path):
        table = predictions(1.0, seed=1)
        cell = write_run(tmp_path, "a", table)
        image = write_run(tmp_path, "b", table, level="image")
        named = write_run(tmp_path, "c", table, class_names=CLASSES[::-1])
        for other, message in ((image, r"level of .* is image"), (named, "class_names of")):
            with pytest.raises(comparison.ComparisonError, match=message):
                comparison.read_predictions(tabulate_runs([cell, other]))

    def test_slices_that_no_run_saw_are_named(self, tmp_path):
        table = predictions(1.0, seed=1)
        for model in ("resnet18", "resnet18-slice0", "resnet18-slice0+2", "resnet152"):
            write_run(tmp_path, model, table)
        (tmp_path / "runs" / "cell" / "resnet18-slice1" / "seed0").mkdir(parents=True)
        runs = comparison.find_runs_on_slices(Study(tmp_path), "cell", "resnet18")
        assert runs["model"].tolist() == ["resnet18", "resnet18-slice0", "resnet18-slice0+2"]
        assert comparison.missing_slices(runs) == ["1", "2", "0+1", "1+2"]

    def test_models_are_found_with_every_finished_seed(self, tmp_path):
        table = predictions(1.0, seed=1)
        for model, seed in (("resnet18", 10), ("resnet18", 2), ("resnet50", 0)):
            write_run(tmp_path, model, table, seed)
        stopped = write_run(tmp_path, "resnet18", table, 3)
        stopped.status_file.write_text(json.dumps({"failed": "no room"}))
        runs = comparison.find_runs(Study(tmp_path), "cell", ["resnet50", "resnet18"])
        assert runs[["model", "seed"]].to_numpy().tolist() == [
            ["resnet50", 0],
            ["resnet18", 2],
            ["resnet18", 10],
        ]

    def test_a_model_without_a_finished_run_is_named_with_those_that_have_one(self, tmp_path):
        write_run(tmp_path, "resnet18", predictions(1.0, seed=1))
        wanted = "no finished cell run of densenet121. Finished are: resnet18. Train"
        with pytest.raises(comparison.ComparisonError, match=wanted):
            comparison.find_runs(Study(tmp_path), "cell", ["resnet18", "densenet121"])
        with pytest.raises(comparison.ComparisonError, match="no finished cell run of resnet50"):
            comparison.find_runs_on_slices(Study(tmp_path), "cell", "resnet50")

    def test_missing_repeated_and_empty(self, tmp_path):
        run = write_run(tmp_path, "a", predictions(1.0, seed=1))
        absent = Study(tmp_path).run("cell", "b", 0)
        with pytest.raises(FileNotFoundError, match=r"holds no config\.json: the run is missing"):
            comparison.read_predictions(tabulate_runs([run, absent]))
        with pytest.raises(comparison.ComparisonError, match="given twice"):
            comparison.read_predictions(tabulate_runs([run, run]))
        with pytest.raises(comparison.ComparisonError, match="No run was given"):
            comparison.read_predictions(tabulate_runs([]))
        with pytest.raises(comparison.ComparisonError, match="predicted nothing of subset 'tset'"):
            comparison.read_predictions(tabulate_runs([run]), "tset")

    def test_runs_of_two_studies(self, tmp_path):
        table = predictions(1.0, seed=1)
        ours = write_run(tmp_path / "lab", "resnet18", table)
        theirs = write_run(tmp_path / "demo", "resnet50", table)
        message = r"resnet18/seed0 and .*resnet50/seed0 lie in two studies, .*lab and .*demo"
        for refuse in (comparison.read_predictions, comparison.refuse_mixtures):
            with pytest.raises(comparison.ComparisonError, match=message):
                refuse(tabulate_runs([ours, theirs]))

    def test_simulated_beside_real(self, tmp_path):
        table = predictions(1.0, seed=1)
        write_run(tmp_path, "resnet18", table)
        write_record(write_run(tmp_path, "resnet50", table), simulated=False)
        message = r"resnet18/seed0 and .*resnet50/seed0 learnt from simulated and from real data"
        with pytest.raises(comparison.ComparisonError, match=message):
            comparison.find_runs(Study(tmp_path), "cell", ["resnet18", "resnet50"])

    def test_one_class_alone_and_a_subset_that_is_not_there(self, tmp_path):
        table = predictions(1.0, seed=1)
        one = write_run(tmp_path / "a", "resnet18", table[table["class"] == "MPP"])
        with pytest.raises(comparison.ComparisonError, match="one class alone, MPP"):
            comparison.read_predictions(tabulate_runs([one]))
        held = write_run(tmp_path / "b", "resnet18", table.assign(split="validation"))
        with pytest.raises(comparison.ComparisonError, match="Choose one that it did: validation"):
            comparison.read_predictions(tabulate_runs([held]), "test")

    def test_without_a_test_subset_the_validation_subset_is_scored_and_said_so(
        self, tmp_path, capsys
    ):
        table = predictions(1.0, seed=1).assign(split="validation")
        run = write_run(tmp_path, "resnet18", table)
        run.scores_file.write_text(json.dumps({"validation": {"auroc": 0.5}}))
        assert comparison.scored_subset(run, "train") == "train"
        scored = comparison.scored_subset(run, "test")
        assert scored == "validation" and "scores on it flatter" in capsys.readouterr().out
        assert len(comparison.read_predictions(tabulate_runs([run]), scored)[0]) == len(table)

    def test_a_misspelt_level_and_baseline(self, tmp_path):
        run = write_run(tmp_path, "resnet18", predictions(1.0, seed=1))
        with pytest.raises(comparison.ComparisonError, match="level: 'cells' is not one of image"):
            comparison.find_runs(Study(tmp_path), "cells", ["resnet18"])
        _, scores, _ = scored(run, resamples=5)
        with pytest.raises(comparison.ComparisonError, match="baseline: 'resnet50' is not one of"):
            comparison.compare(scores, baseline="resnet50")


class TestDamagedFiles:
    """Results cut by a power loss are named, and the other seeds go on."""

    @pytest.mark.parametrize("name", ["config.json", "metrics.json", "provenance.json"])
    @pytest.mark.parametrize("content", ["", '{"level": "ce', "[1, 2]", "{}"])
    def test_a_seed_with_a_damaged_file_is_left_out_by_name(self, tmp_path, capsys, name, content):
        table = predictions(1.0, seed=1)
        write_run(tmp_path, "resnet18", table)
        cut = write_run(tmp_path, "resnet18", table, seed=1)
        (cut.directory / name).write_text(content)
        runs = comparison.find_runs(Study(tmp_path), "cell", ["resnet18"])
        assert runs["seed"].tolist() == [0]
        assert re.search(rf"Left out: .*seed1: .*{name}", capsys.readouterr().out)

    @pytest.mark.parametrize("keep", [0, 40, 900])
    def test_cut_predictions_are_named_where_no_other_seed_is_left(self, tmp_path, keep):
        run = write_run(tmp_path, "resnet18", predictions(1.0, seed=1))
        run.predictions_file.write_bytes(run.predictions_file.read_bytes()[:keep])
        message = r"no finished cell run of resnet18\. .*predictions\.parquet is .*damaged"
        with pytest.raises(comparison.ComparisonError, match=message):
            comparison.find_runs(Study(tmp_path), "cell", ["resnet18"])

    def test_predictions_of_something_else(self, tmp_path):
        table = predictions(1.0, seed=1)
        holes = table.assign(p_MPP=table["p_MPP"].mask(table.index == 7))
        others = {
            "lacks p_MPP": table.drop(columns="p_MPP"),
            "lacks class": table.drop(columns="class"),
            "holds the classes CD34": table.assign(**{"class": "CD34"}),
            "holds no finite numbers": holes,
        }
        for k, (message, other) in enumerate(others.items()):
            run = write_run(tmp_path, "resnet18", other, seed=k)
            with pytest.raises(comparison.ComparisonError, match=rf"parquet {message}"):
                comparison.read_predictions(tabulate_runs([run]))


ODD = ["CD34+", "CD34-", "NO", 'mouse\'s "old" $B$ cells', "auroc_high"]


def test_classes_with_odd_names_are_compared_and_drawn(tmp_path):
    names = dict(zip(CLASSES, ODD[2:], strict=True))
    table = predictions(1.0, seed=1).replace({"class": names})
    table = table.rename(columns={f"p_{old}": f"p_{new}" for old, new in names.items()})
    plus_and_minus = table.assign(**{"p_CD34+": 0.0, "p_CD34-": 0.0})
    odd = table.index % 10
    for k, name in enumerate(ODD[:2]):
        plus_and_minus.loc[odd == k, "class"] = name
    runs, scores, tables = scored(
        write_run(tmp_path, "resnet18", plus_and_minus, class_names=ODD),
        write_run(tmp_path, "resnet50", plus_and_minus, class_names=ODD),
        resamples=20,
    )
    assert {name for _, name in comparison.roc_curves(runs, tables)} == set(ODD)
    compared = comparison.compare(scores)
    curves = figures.roc_curves(comparison.roc_curves(runs, tables), compared)
    bars = figures.auroc_bars(compared)
    for figure, shown in ((curves, ODD), (bars, ["mean of classes", *ODD])):
        figure.canvas.draw()
        texts = figure.findobj(Text)
        assert set(shown) <= {text.get_text() for text in texts}
        assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())


def test_one_run_leaves_a_sentence_instead_of_differences(tmp_path):
    runs, scores, tables = scored(write_run(tmp_path, "resnet18", predictions(1, 1)), resamples=20)
    table = comparison.compare(scores)
    (text,) = figures.differences(table).axes[0].texts
    assert text.get_text() == "One model, resnet18: there is no difference to draw."
    alone = comparison.compare(scores, baseline="resnet18")
    left, right = figures.slices(alone, runs).axes
    assert len(left.texts) == 6 and len(right.lines) == 1
    figures.roc_curves(comparison.roc_curves(runs, tables), table)
