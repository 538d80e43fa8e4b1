import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy import special
from sklearn.metrics import roc_auc_score

from hsc_utils import comparison, metrics
from hsc_utils.comparison import figures, paper_tables
from hsc_utils.comparison.compare import SCORES
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


def scored(*runs: Run) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    table = tabulate_runs(runs)
    predicted = comparison.read_predictions(table)
    return table, comparison.leave_one_out_scores(table, predicted), predicted


def compared(*runs: Run, **settings) -> pd.DataFrame:
    """The table of `compare`, corrected."""
    _, scores, _ = scored(*runs)
    return comparison.holm(comparison.compare(scores, **settings))[0]


def auroc_difference(table: pd.DataFrame) -> pd.Series:
    """The first difference in AUROC."""
    return table.query("against != '' and score == 'auroc'").iloc[0]


def simulated(
    rng: np.random.Generator, signals: Sequence[float], seeds: int, images: int = 60, day: float = 0
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Predictions of one cell per image, by models that see mostly the same difficulties.

    `signals` are those of each training: the first `seeds` belong to model0, and so on. Images of
    each of eight days share noise of spread `day`, of each training its own.
    """
    truth, days = np.arange(images) % 3, np.arange(images) // 3 % 8
    common = rng.normal(size=(images, 3))
    rows, tables = [], []
    for k, signal in enumerate(signals):
        logits = 0.9 * common + 0.45 * rng.normal(size=(images, 3)) + signal * np.eye(3)[truth]
        logits += day * rng.normal(size=(8, 3))[days]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in CLASSES])
        names = {"class": np.array(CLASSES)[truth], "image_id": [f"i{i}" for i in range(images)]}
        tables.append(table.assign(**names, group=[f"day{d}" for d in days]))
        rows.append((f"model{k // seeds}", k % seeds, tuple(CLASSES)))
    return pd.DataFrame(rows, columns=["model", "seed", "class_names"]), tables


def differences(runs: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of `compare` for pairs, without taking time for the classes' scores."""
    scores = comparison.leave_one_out_scores(runs, tables)
    scores = scores.loc[:, scores.columns.get_level_values("score").isin(SCORES)]
    return comparison.compare(scores).query("against != ''")


def signal_for(auroc: float) -> float:
    """How much more signal gains so much AUROC, from a signal of 2."""
    rng = np.random.default_rng(0)
    reached = []
    for signal in (1.9, 2.1):
        _, (table,) = simulated(rng, [signal], 1, images=30_000)
        by_class = [roc_auc_score(table["class"] == name, table[f"p_{name}"]) for name in CLASSES]
        reached.append(np.mean(by_class))
    return auroc * 0.2 / (reached[1] - reached[0])


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
        _, scores, _ = scored(write_run(tmp_path, "resnet18", table))
        whole = scores.loc["whole"].iloc[0]
        expected = metrics.score(
            table["class"], metrics.probability_matrix(table, CLASSES), CLASSES
        )
        for key in SCORES:
            assert whole["resnet18", 0, key] == pytest.approx(expected[key])
        for name in CLASSES:
            auroc = expected["per_class"][name]["auroc"]
            assert whole["resnet18", 0, f"auroc {name}"] == pytest.approx(auroc)
        assert len(scores) == 31 and len(comparison.compare(scores)) == 5

    def test_the_others_are_the_test_set_without_an_image_or_a_day(self, tmp_path):
        table = predictions(1.0, seed=1)
        table["group"] = "day" + (table["image_id"].str[-3:].astype(int) // 5).astype(str)
        _, scores, _ = scored(write_run(tmp_path, "resnet18", table))
        assert scores.groupby("unit").size().to_dict() == {"whole": 1, "image": 30, "group": 6}
        for unit, column in (("image", "image_id"), ("group", "group")):
            for k, name in list(enumerate(table[column].unique()))[:6]:
                rest = table[table[column] != name]
                expected = metrics.score(
                    rest["class"], metrics.probability_matrix(rest, CLASSES), CLASSES
                )
                for key in SCORES:
                    found = scores.loc[(unit, k), ("resnet18", 0, key)]
                    assert found == pytest.approx(expected[key])

    def test_repeats_are_averaged(self, tmp_path):
        runs = [write_run(tmp_path, "resnet18", predictions(1, k), seed=k) for k in (1, 2, 3)]
        _, scores, tables = scored(*runs)
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
        _, scores, _ = scored(*runs)
        gaps = scores["resnet18", 0, "auroc MPP"] - scores["resnet50", 0, "auroc MPP"]
        covariance = delong_covariance(
            (good["class"] == "MPP").to_numpy(), good["p_MPP"].to_numpy(), poor["p_MPP"].to_numpy()
        )
        expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        variance, _ = metrics.jackknife(gaps.loc["image"].to_numpy())
        assert np.sqrt(variance) == pytest.approx(expected, rel=0.02)
        # a score's interval is DeLong's on the logit scale, with quantiles of t
        alone = comparison.compare(scores).query("model == 'resnet18' and score == 'auroc MPP'")
        estimate, low, high = alone[["estimate", "low", "high"]].iloc[0]
        width = 1.97 * np.sqrt(covariance[0, 0]) / (estimate * (1 - estimate))
        found = special.logit([low, high]) - special.logit(estimate)
        assert found == pytest.approx([-width, width], rel=0.04)

    def test_more_copies_of_the_same_cells_do_not_narrow_an_interval(self, tmp_path):
        table = predictions(1.0, seed=1)
        copies = pd.concat([table.assign(id=table["id"] + f"_{k}") for k in range(5)])
        rows = []
        for name, cells in (("once", table), ("copied", copies)):
            _, scores, _ = scored(write_run(tmp_path, name, cells))
            rows.append(comparison.compare(scores)[["estimate", "low", "high"]])
        pd.testing.assert_frame_equal(*rows)

    def test_a_class_without_test_samples_is_left_out(self, tmp_path):
        table = predictions(1.0, seed=1)
        table = table[table["class"] != "MPP"]
        runs, scores, tables = scored(write_run(tmp_path, "resnet18", table))
        assert set(scores["resnet18", 0]) == {*SCORES, "auroc LT-HSC", "auroc ST-HSC"}
        assert not comparison.compare(scores)[["estimate", "low", "high"]].isna().any(axis=None)
        assert {name for _, name in comparison.roc_curves(runs, tables)} == {"LT-HSC", "ST-HSC"}


class TestDifferences:
    def test_a_model_does_not_differ_from_its_copy(self, tmp_path):
        table = predictions(1.0, seed=1)
        runs = write_run(tmp_path, "resnet18", table), write_run(tmp_path, "resnet50", table)
        rows = compared(*runs).query("against != ''")
        assert (rows[["estimate", "low", "high"]] == 0).all(axis=None)
        assert (rows["p_holm"] == 1).all()
        assert comparison.verdict(rows.iloc[0]).endswith("not told apart.")

    def test_pairing_makes_a_difference_surer_than_the_scores(self, tmp_path):
        better, worse = predictions(2.0, seed=1), predictions(0.5, seed=1)
        runs = write_run(tmp_path, "resnet18", worse), write_run(tmp_path, "densenet169", better)
        table = compared(*runs).set_index(["model", "against", "score"])
        row = table.loc["densenet169", "resnet18", "auroc"]
        assert row.low < row.estimate < row.high and row.low > 0 and row.p_holm < 0.05
        width = row.high - row.low
        alone = table.loc[[("resnet18", "", "auroc"), ("densenet169", "", "auroc")]]
        assert width < np.hypot(*(alone["high"] - alone["low"]))
        row = table.reset_index().query("against == 'resnet18' and score == 'auroc'").iloc[0]
        assert "higher for these two trained models" in comparison.verdict(row)

    def test_order_of_the_runs_only_flips_the_sign(self, tmp_path):
        runs = [write_run(tmp_path, f"model{k}", predictions(1, k)) for k in (1, 2)]
        forwards, backwards = (
            compared(*order).query("against != ''").reset_index(drop=True)
            for order in (runs, runs[::-1])
        )
        np.testing.assert_allclose(forwards["estimate"], -backwards["estimate"])
        np.testing.assert_allclose(forwards["low"], -backwards["high"])
        np.testing.assert_allclose(forwards["p"], backwards["p"])

    def test_against_one_baseline_only(self, tmp_path):
        runs = [write_run(tmp_path, f"model{k}", predictions(1, k)) for k in (1, 2, 3)]
        every, few = (compared(*runs, baseline=name) for name in (None, "model2"))
        assert len(every.query("against != ''")) == 2 * 3
        assert set(few.query("against != ''")["model"]) == {"model2"}
        assert set(few["against"]) == {"", "model1", "model3"}
        # both scores are one family, and what is not asked does not count
        least = few["p"].idxmin()
        assert few.loc[least, "p_holm"] == pytest.approx(min(1, 4 * few.loc[least, "p"]))
        least = every["p"].idxmin()
        assert every.loc[least, "p_holm"] == pytest.approx(min(1, 6 * every.loc[least, "p"]))

    def test_one_seed_says_so_and_the_spread_of_seeds_counts(self, tmp_path):
        good = [predictions(2.0, seed=k) for k in range(3)]
        poor = [predictions(skill, seed=9 + k) for k, skill in enumerate((0.3, 0.3, 3.5))]
        once = [write_run(tmp_path / "a", m, t[0]) for m, t in (("m", poor), ("n", good))]
        row = auroc_difference(compared(*once))
        assert row["seeds"] == 1 and row["p_holm"] < 0.05
        assert "higher for these two trained models." in comparison.verdict(row)
        assert "takes several trainings" in comparison.trained_once(row.to_frame().T)[0]
        runs = [
            write_run(tmp_path / "b", m, t, seed=k)
            for m, tables in (("m", poor), ("n", good))
            for k, t in enumerate(tables)
        ]
        _, scores, _ = scored(*runs)
        means = scores.loc["whole"].iloc[0].groupby(["model", "score"]).mean()
        row = auroc_difference(compared(*runs))
        assert row["seeds"] == 3 and np.isnan(row["seed_low"])
        assert row["estimate"] == pytest.approx(means["n", "auroc"] - means["m", "auroc"])
        assert row["estimate"] > 0.1 and comparison.verdict(row).endswith("not told apart.")
        # without the seed that went another way
        row = auroc_difference(compared(*[run for run in runs if run.seed != 2]))
        assert row["seeds"] == 2
        assert "higher, by more than the choice of images and of seeds" in comparison.verdict(row)
        # one training of either leaves the architectures open
        row = auroc_difference(compared(*[run for run in runs if run.model == "n" or not run.seed]))
        assert row["seeds"] == 1 and "these two trained models" in comparison.verdict(row)

    def test_which_seed_goes_with_which_is_nothing(self):
        runs, tables = simulated(np.random.default_rng(0), [2.0] * 3 + [2.5] * 3, 3)
        rows = []
        for order in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 5, 3, 4]):
            rows.append(differences(runs, [tables[k] for k in order]))
        pd.testing.assert_frame_equal(*rows)

    def test_no_difference_is_rarely_called_one(self, tmp_path):
        """Of many pairs of equally good models, few may have a p-value below 0.05."""
        runs = [write_run(tmp_path, f"m{k}", predictions(1, k, cells=3)) for k in range(30)]
        pairs = list(zip(runs[::2], runs[1::2], strict=True))
        table = pd.concat([compared(*pair) for pair in pairs]).query("against != ''")
        independent = table[table["score"] == "auroc"]
        assert len(independent) == 15 and (independent["p"] < 0.05).sum() <= 3
        assert (table["p_holm"] >= table["p"]).all()

    def test_architectures_whose_seeds_differ_are_rarely_called_different_if_equal(self):
        """A small version of benchmarks/coverage.py: true spread between seeds 0.01 AUROC."""
        rng, spread = np.random.default_rng(0), signal_for(0.01)
        for other, times, least, most in ((2.0, 150, 0, 0.08), (0.8, 20, 0.8, 1)):
            called = []
            for _ in range(times):
                signals = np.repeat([2.0, other], 3) + spread * rng.normal(size=6)
                runs, tables = simulated(rng, signals, 3)
                table = differences(runs, [t.drop(columns="group") for t in tables])
                called.append(auroc_difference(table)["p"] < 0.05)
            assert least <= np.mean(called) <= most

    def test_a_class_with_few_images_leaves_no_interval_and_no_verdict(self, tmp_path):
        tables = [predictions(skill, seed=1, images=12, cells=40) for skill in (0.5, 2.0)]
        assert tables[0].groupby("class")["image_id"].nunique().max() == 4
        runs, scores, read = scored(
            *(write_run(tmp_path, f"m{k}", t) for k, t in enumerate(tables))
        )
        (few,) = comparison.holm(comparison.compare(scores))
        assert few[["low", "high", "p", "p_holm"]].isna().all(axis=None)
        assert few["estimate"].notna().all()
        said = comparison.verdict(auroc_difference(few))
        assert "m1 minus m0: +0." in said and "nan" not in said
        assert "No interval and no verdict: a class has fewer than 5 independent" in said
        # nor does what was not asked count among the others
        p_values = pd.DataFrame({"p": [0.02]})
        _, (corrected,) = (t["p_holm"].tolist() for t in comparison.holm(few, p_values))
        assert corrected == pytest.approx(0.02)
        for draw in (figures.differences, figures.auroc_dots):
            draw(few).draw_without_rendering()
        texts = figures.roc_curves(comparison.roc_curves(runs, read), few).findobj(Text)
        said = " ".join(text.get_text() for text in texts)
        assert said.count("(no interval)") == 6 and "nan" not in said

    def test_a_difference_that_no_image_moves_is_not_said_to_be_sure(self, tmp_path):
        right, guess = predictions(99.0, seed=1), predictions(1.0, seed=1)
        guess[[f"p_{name}" for name in CLASSES]] = 1 / 3
        runs = write_run(tmp_path, "resnet18", guess), write_run(tmp_path, "resnet50", right)
        row = auroc_difference(compared(*runs))
        assert row["estimate"] == 0.5 and row[["low", "high", "p"]].isna().all()
        assert "no image moves" in comparison.verdict(row)

    def test_holm_by_hand(self):
        tables = [pd.DataFrame({"p": values}) for values in ([0.04, 0.01], [0.03, np.nan])]
        first, second = comparison.holm(*tables)
        np.testing.assert_allclose(first["p_holm"], [0.06, 0.03])
        np.testing.assert_allclose(second["p_holm"], [0.06, np.nan])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 12))
    def test_holm_is_between_nothing_and_bonferroni(self, values, cut):
        tables = [pd.DataFrame({"p": part}, dtype=float) for part in (values[:cut], values[cut:])]
        corrected = pd.concat(comparison.holm(*tables), ignore_index=True)["p_holm"]
        raw = pd.Series(values)
        assert (corrected >= raw).all()
        assert (corrected <= np.minimum(1, raw * len(raw)) + 1e-12).all()
        ranks = raw.rank(method="first").astype(int).sort_values().index
        assert corrected[ranks].is_monotonic_increasing


class TestDays:
    """Images of a day resemble each other; the wider interval counts."""

    def widths(self, runs: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.Series:
        table = comparison.compare(comparison.leave_one_out_scores(runs, tables))
        assert table["low"].notna().all()
        return table["high"] - table["low"]

    def test_an_effect_of_the_day_widens_scores_and_differences(self):
        rng = np.random.default_rng(0)
        for day in (0.0, 2.0):
            runs, tables = simulated(rng, [2.0, 2.0], 1, images=120, day=day)
            over_days = self.widths(runs, tables)
            over_images = self.widths(runs, [table.drop(columns="group") for table in tables])
            assert (over_days >= over_images).all()
            if day:
                assert (over_days / over_images).mean() > 1.5

    def test_few_or_unknown_days_do_not_count(self):
        runs, tables = simulated(np.random.default_rng(0), [2.0, 2.0], 1, images=120, day=2.0)
        over_images = self.widths(runs, [table.drop(columns="group") for table in tables])
        kinds = {
            "five days": lambda t: t["group"].replace({f"day{k}": "day0" for k in (5, 6, 7)}),
            "one not known": lambda t: t["group"].where(t.index > 0, ""),
            "a day per class": lambda t: t["class"],
        }
        for kind in kinds.values():
            changed = [table.assign(group=kind(table)) for table in tables]
            pd.testing.assert_series_equal(self.widths(runs, changed), over_images)

    def test_equal_models_are_rarely_called_different_with_an_effect_of_the_day(self):
        rng, by_days, by_images = np.random.default_rng(2), [], []
        for _ in range(60):
            runs, tables = simulated(rng, [2.0, 2.0], 1, images=120, day=2.0)
            without = [table.drop(columns="group") for table in tables]
            for called, given_tables in ((by_days, tables), (by_images, without)):
                called.append(auroc_difference(differences(runs, given_tables))["p"] < 0.05)
        assert np.mean(by_days) <= 0.08 < np.mean(by_images)


class TestAgainstTheBest:
    def test_signs_are_other_minus_best_wherever_the_best_stands(self, tmp_path):
        skills = {"resnet18": 0.5, "resnet50": 1.5, "densenet121": 1.0}
        for k, order in enumerate(([0, 1, 2], [1, 0, 2], [2, 0, 1])):
            names = [list(skills)[i] for i in order]
            folder = tmp_path / str(k)
            runs = [write_run(folder, n, predictions(skills[n], 1)) for n in names]
            table = compared(*runs)
            alone = table[table["against"] == ""].set_index(["model", "score"])["estimate"]
            rows = paper_tables.against_the_best(tabulate_runs(runs))
            assert set(rows["against"]) == {"resnet50"} and len(rows) == 4
            assert set(rows["model"]) == {"resnet18", "densenet121"}
            assert (rows["estimate"] < 0).all()
            for row in rows.itertuples():
                expected = alone[row.model, row.score] - alone["resnet50", row.score]
                assert row.estimate == pytest.approx(expected)
                assert row.low < row.estimate < row.high
            # every pair and both scores count, not only what is shown
            all_pairs = table[table["against"] != ""]
            assert set(rows["p_holm"]) <= set(all_pairs["p_holm"]) and len(all_pairs) == 6

    def test_fewer_slices_unfinished_runs_and_single_models_are_no_rivals(self, tmp_path):
        runs = [write_run(tmp_path, n, predictions(1, 1)) for n in ("resnet18", "resnet18-slice0")]
        runs.append(Study(tmp_path).run("cell", "resnet50", 0))
        assert paper_tables.against_the_best(tabulate_runs(runs)).empty

    def test_other_test_sets_are_said_and_nothing_is_compared(self, tmp_path, capsys):
        table = predictions(1, 1)
        runs = write_run(tmp_path, "resnet18", table), write_run(tmp_path, "resnet50", table[8:])
        assert paper_tables.against_the_best(tabulate_runs(runs)).empty
        assert "not compared with the best" in capsys.readouterr().out

    def test_the_page_says_whether_the_best_is_better(self, tmp_path):
        for model, skill in (("resnet18", 0.2), ("resnet50", 2.0)):
            for seed in range(2):
                write_run(tmp_path, model, predictions(skill, seed), seed)
        folders = sorted((tmp_path / "runs").glob("*/*/*"))
        paper_tables.write_tables(tmp_path / "tables", folders)
        text = (tmp_path / "tables" / "tables.md").read_text()
        assert "Is the best better than the others?" in text
        assert "- AUROC of ResNet-18 minus ResNet-50: -0." in text
        assert "lower, by more than the choice of images and of seeds explains." in text
        assert len(pd.read_csv(tmp_path / "tables" / "best_cell.csv")) == 2

    def test_of_nine_equal_backbones_none_is_often_called_worse(self, monkeypatch):
        """The best of them is the best by luck; a small version of benchmarks/coverage.py."""
        rng, spread, called = np.random.default_rng(0), signal_for(0.01), []
        for _ in range(12):
            runs, tables = simulated(rng, 2.0 + spread * rng.normal(size=27), 3)
            runs = runs.assign(missing="", judged_on="test")
            monkeypatch.setattr(paper_tables, "read_predictions", lambda *_, given=tables: given)
            rows = paper_tables.against_the_best(runs)
            assert len(rows) == 2 * 8 and len(set(rows["against"])) == 1
            assert (rows.loc[rows["score"] == "auroc", "estimate"] <= 0).all()
            called.append((rows["p_holm"] < 0.05).any())
        assert np.sum(called) <= 1


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
        _, scores, _ = scored(run)
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
    )
    assert {name for _, name in comparison.roc_curves(runs, tables)} == set(ODD)
    table = comparison.compare(scores)
    curves = figures.roc_curves(comparison.roc_curves(runs, tables), table)
    dots = figures.auroc_dots(table)
    for figure, shown in ((curves, ODD), (dots, ["mean of classes", *ODD])):
        figure.draw_without_rendering()
        texts = figure.findobj(Text)
        assert set(shown) <= {text.get_text() for text in texts}
        assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())


def test_one_run_leaves_a_sentence_instead_of_differences(tmp_path):
    runs, scores, tables = scored(write_run(tmp_path, "resnet18", predictions(1, 1)))
    table = comparison.compare(scores)
    (text,) = figures.differences(table).axes[0].texts
    assert text.get_text() == "One model, ResNet-18: there is no difference to draw."
    alone = comparison.compare(scores, baseline="resnet18")
    left, right = figures.slices(alone, runs).axes
    assert len(left.texts) == 6 and len(right.lines) == 1
    figures.roc_curves(comparison.roc_curves(runs, tables), table)


def test_conclusions_are_few_and_name_what_is_beyond_chance():
    names = ["model", "against", "score", "estimate", "low", "high", "p_holm", "seeds"]
    rows = [
        ("n", "n-slice0", "auroc", 0.2, 0.1, 0.3, 0.001, 1),
        ("n", "n-slice1", "auroc", 0.1, -0.1, 0.3, 0.3, 1),
        ("resnet18", "n", "auroc", 0.1, -0.1, 0.3, 0.3, 1),
        ("resnet18", "n", "balanced_accuracy", 0.1, -0.1, 0.3, 0.3, 1),
        ("resnet18", "n-slice0", "auroc", 0.2, 0.1, 0.3, 0.001, 1),
    ]
    table = pd.DataFrame(rows, columns=names)
    named = ("Slice 0, DIC", "Slice 1", "Slice 2")
    slices, networks, once = comparison.conclusions(table[2:], table[:2], named)
    assert "+0.200 over DIC (slice 0), +0.100 over slice 1; 1 of 2 beyond chance." in slices
    assert networks.startswith("AUROC of ResNet-18 minus n: +0.100") and "not told" in networks
    assert "takes several trainings" in once
    assert comparison.conclusions(table[:0], table[:0], named) == []
