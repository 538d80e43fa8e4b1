import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsc_utils import comparison, metrics

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


def write_run(runs_dir: Path, model: str, table: pd.DataFrame, seed: int = 0, **config) -> Path:
    run_dir = runs_dir / model / f"seed{seed}"
    run_dir.mkdir(parents=True)
    settings = {
        "level": "cell",
        "architecture": model.split("-")[0],
        "channels": [0] if "-slice0" in model else [0, 1, 2],
        "class_names": CLASSES,
        "seed": seed,
    }
    (run_dir / "config.json").write_text(json.dumps(settings | config))
    provenance = {"weights": "none", "simulated": True}
    (run_dir / "provenance.json").write_text(json.dumps(provenance))
    table.to_parquet(run_dir / "predictions.parquet")
    return run_dir


def scored(*run_dirs: Path, **settings) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    runs = comparison.read_runs(run_dirs)
    tables = comparison.read_predictions(runs)
    return runs, comparison.resampled_scores(runs, tables, **settings), tables


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
        runs, scores, _ = scored(write_run(tmp_path, "resnet18", table), resamples=20)
        expected = metrics.score(
            table["class"], metrics.probability_matrix(table, CLASSES), CLASSES
        )
        for key in comparison.SCORES:
            assert scores["resnet18", key].iloc[0] == pytest.approx(expected[key])
        for name in CLASSES:
            auroc = expected["per_class"][name]["auroc"]
            assert scores["resnet18", f"auroc {name}"].iloc[0] == pytest.approx(auroc)
        assert len(scores) == 21 and len(comparison.compare(runs, scores)) == 5

    def test_repeats_are_averaged(self, tmp_path):
        dirs = [write_run(tmp_path, "resnet18", predictions(1, k), seed=k) for k in (1, 2, 3)]
        runs, scores, tables = scored(*dirs, resamples=5)
        each = [
            metrics.score(t["class"], metrics.probability_matrix(t, CLASSES), CLASSES)["auroc"]
            for t in tables
        ]
        assert scores["resnet18", "auroc"].iloc[0] == pytest.approx(np.mean(each))
        assert set(comparison.compare(runs, scores)["seeds"]) == {3}

    def test_spread_agrees_with_delong_where_images_hold_one_cell(self, tmp_path):
        noise = predictions(0, seed=5, images=300, cells=1)
        good, poor = predictions(1.5, 1, 300, 1), predictions(0.7, 2, 300, 1)
        for table in (good, poor):  # shared noise makes the models' errors correlate
            shared = [f"p_{name}" for name in CLASSES]
            mixed = np.sqrt(table[shared] * noise[shared])
            table[shared] = mixed.div(mixed.sum(axis=1), axis=0)
        dirs = write_run(tmp_path, "resnet18", good), write_run(tmp_path, "resnet50", poor)
        _, scores, _ = scored(*dirs, resamples=4000)
        gaps = scores["resnet18", "auroc MPP"] - scores["resnet50", "auroc MPP"]
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
            runs, scores, _ = scored(write_run(tmp_path, name, cells), resamples=300)
            rows.append(comparison.compare(runs, scores)[["estimate", "low", "high"]])
        pd.testing.assert_frame_equal(*rows)


class TestDifferences:
    def test_a_model_does_not_differ_from_its_copy(self, tmp_path):
        table = predictions(1.0, seed=1)
        dirs = write_run(tmp_path, "resnet18", table), write_run(tmp_path, "resnet50", table)
        runs, scores, _ = scored(*dirs, resamples=100)
        rows = comparison.compare(runs, scores).query("against != ''")
        assert (rows[["estimate", "low", "high"]] == 0).all(axis=None)
        assert (rows["p_holm"] == 1).all()
        assert "within the noise" in comparison.verdict(rows.iloc[0])

    def test_pairing_makes_a_difference_surer_than_the_scores(self, tmp_path):
        better, worse = predictions(2.0, seed=1), predictions(0.5, seed=1)
        dirs = write_run(tmp_path, "resnet18", worse), write_run(tmp_path, "densenet169", better)
        runs, scores, _ = scored(*dirs, resamples=500)
        table = comparison.compare(runs, scores).set_index(["model", "against", "score"])
        row = table.loc["densenet169", "resnet18", "auroc"]
        assert row.low < row.estimate < row.high and row.low > 0 and row.p_holm < 0.05
        width = row.high - row.low
        alone = table.loc[[("resnet18", "", "auroc"), ("densenet169", "", "auroc")]]
        assert width < np.hypot(*(alone["high"] - alone["low"]))
        row = table.reset_index().query("against == 'resnet18' and score == 'auroc'").iloc[0]
        assert "higher by more than chance" in comparison.verdict(row)

    def test_order_of_the_runs_only_flips_the_sign(self, tmp_path):
        dirs = [write_run(tmp_path, f"model{k}", predictions(1, k)) for k in (1, 2)]
        forwards, backwards = (
            comparison.compare(runs, scores).query("against != ''").reset_index(drop=True)
            for runs, scores, _ in (scored(*dirs, resamples=50), scored(*dirs[::-1], resamples=50))
        )
        np.testing.assert_allclose(forwards["estimate"], -backwards["estimate"])
        np.testing.assert_allclose(forwards["low"], -backwards["high"])
        np.testing.assert_allclose(forwards["p"], backwards["p"])

    def test_holm_by_hand(self):
        corrected = comparison.holm(pd.Series([0.04, 0.01, 0.03, np.nan]))
        np.testing.assert_allclose(corrected, [0.06, 0.03, 0.06, np.nan])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_holm_is_between_nothing_and_bonferroni(self, values):
        raw = pd.Series(values)
        corrected = comparison.holm(raw)
        assert (corrected >= raw).all()
        assert (corrected <= np.minimum(1, raw * len(raw)) + 1e-12).all()
        ranks = raw.rank(method="first").astype(int).sort_values().index
        assert corrected[ranks].is_monotonic_increasing


class TestRefusals:
    def test_other_cells(self, tmp_path):
        table = predictions(1.0, seed=1)
        dirs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", table.iloc[3:])
        with pytest.raises(comparison.ComparisonError, match=r"3 only in .*a/seed0, such as image"):
            comparison.read_predictions(comparison.read_runs(dirs))

    def test_other_labels(self, tmp_path):
        table = predictions(1.0, seed=1)
        other = table.assign(**{"class": table["class"].mask(table.index == 7, "MPP")})
        other.loc[7, "class"] = "MPP" if table.loc[7, "class"] != "MPP" else "LT-HSC"
        dirs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", other)
        with pytest.raises(comparison.ComparisonError, match="1 with another class, such as"):
            comparison.read_predictions(comparison.read_runs(dirs))

    def test_other_order_is_no_difference(self, tmp_path):
        table = predictions(1.0, seed=1)
        dirs = write_run(tmp_path, "a", table), write_run(tmp_path, "b", table.iloc[::-1])
        first, second = comparison.read_predictions(comparison.read_runs(dirs))
        pd.testing.assert_frame_equal(first, second)

    def test_other_level_or_classes(self, tmp_path):
        table = predictions(1.0, seed=1)
        cell = write_run(tmp_path, "a", table)
        image = write_run(tmp_path, "b", table, level="image")
        named = write_run(tmp_path, "c", table, class_names=CLASSES[::-1])
        with pytest.raises(comparison.ComparisonError, match=r"level of .* is image"):
            comparison.read_runs([cell, image])
        with pytest.raises(comparison.ComparisonError, match="class_names of"):
            comparison.read_runs([cell, named])

    def test_runs_of_one_architecture_are_found(self, tmp_path):
        table = predictions(1.0, seed=1)
        for model in ("resnet18", "resnet18-slice0", "resnet18-slice0+2", "resnet152"):
            write_run(tmp_path, model, table)
        (tmp_path / "resnet18-slice1" / "seed0").mkdir(parents=True)
        names = [path.parent.name for path in comparison.slice_runs(tmp_path, "resnet18")]
        assert names == ["resnet18", "resnet18-slice0", "resnet18-slice0+2"]

    def test_missing_repeated_and_empty(self, tmp_path):
        table = predictions(1.0, seed=1)
        run = write_run(tmp_path, "a", table)
        with pytest.raises(FileNotFoundError, match=r"holds no config\.json: train that model"):
            comparison.read_runs([run, tmp_path / "b" / "seed0"])
        with pytest.raises(comparison.ComparisonError, match="given twice"):
            comparison.read_runs([run, run])
        with pytest.raises(comparison.ComparisonError, match="No run was given"):
            comparison.read_runs([])
        with pytest.raises(comparison.ComparisonError, match="predicted nothing of subset 'tset'"):
            comparison.read_predictions(comparison.read_runs([run]), "tset")
