import numpy as np
import pandas as pd
import pytest
from studies import CLASSES, cell_table, image_table, noise

from hsc_utils import metrics, shortcuts
from hsc_utils.files import write_csv
from hsc_utils.shortcuts import baselines


def score(run, table, arrays, paths, traits=()):
    return shortcuts.score_baselines(run, table, arrays, paths, traits).set_index("predictor")


def by_class(images, *values):
    """Return a number for each image by its class, in the order of `CLASSES`."""
    return images["class"].map(dict(zip(CLASSES, values, strict=True))).to_numpy()


def test_a_planted_brightness_is_found_by_brightness_and_not_by_count(paths, trained, prepared):
    images = image_table()
    counts = np.random.default_rng(2).integers(1, 9, len(images))
    prepared(images, cell_table(images, counts))
    arrays = noise(len(images)) + by_class(images, 0, 20, 40).astype(np.uint8)[:, None, None, None]
    found = score(trained(images), images, arrays, paths)
    assert found.loc["brightness", "auroc"] > 0.99
    assert found.loc["hand-made features", "auroc"] > 0.99
    assert found.loc["cell count", "auroc_low"] < 0.5 < found.loc["cell count", "auroc_high"]
    assert found.loc["brightness", "difference_high"] < 0
    text = shortcuts.sentence(found.reset_index())
    assert "needs no network beats this network: brightness with an AUROC of" in text


def test_a_planted_count_and_size_are_found_by_those_alone(paths, trained, prepared):
    images = image_table()
    rng = np.random.default_rng(2)
    counts = by_class(images, 3, 12, 3) + rng.integers(0, 2, len(images))
    cells = cell_table(images, counts)
    larger = (cells["class"] == "MPP").to_numpy()
    prepared(images, cells.assign(sigma=8 + 2 * larger + rng.uniform(0, 1, len(cells))))
    found = score(trained(images), images, noise(len(images)), paths)["auroc"]
    assert 0.75 < found["cell count"] < 0.9
    assert found["cell count and size"] > 0.99
    assert found["brightness"] < 0.65


def test_an_image_without_cells_counts_as_none(paths, prepared):
    images = image_table()
    counts = by_class(images, 0, 3, 5)
    prepared(images, cell_table(images, counts), empty=images.loc[counts == 0, "image_id"])
    known = baselines._counts(images, paths)
    assert np.allclose(np.expm1(known["count"]), counts)
    assert known["size"].isna().tolist() == (counts == 0).tolist()


def test_the_commonest_class_scores_what_guessing_does(paths, trained, prepared):
    images = image_table()
    rarer = (images["class"] == "LT-HSC") & (images.index % 6 == 0)
    images.loc[rarer, "split"] = "validation"
    run = trained(images, skill=0.3)
    found = score(run, images, noise(len(images)), paths)
    row, own = found.loc[baselines.COMMONEST], found.loc[baselines.NETWORK]
    assert row["auroc"] == row["balanced_accuracy"] == 0.5
    assert np.isnan(row["auroc_low"]) and row["features"] == 0
    assert row["difference"] == pytest.approx(own["auroc"] - 0.5)
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_the_network_is_scored_as_its_run_is(paths, trained):
    images = image_table()
    run = trained(images, skill=0.3)
    own = score(run, images, noise(len(images)), paths).loc[baselines.NETWORK]
    judged = run.predictions.query("split == 'test'")
    arguments = judged["class"], metrics.probability_matrix(judged, CLASSES), CLASSES
    ends = metrics.intervals(*arguments, judged["image_id"], judged["group"])
    for key in ("auroc", "balanced_accuracy"):
        assert own[key] == metrics.score(*arguments)[key]
        assert (own[f"{key}_low"], own[f"{key}_high"]) == ends[key]
    assert pd.isna(own["features"])


def test_permuted_labels_are_not_predicted(paths, trained, prepared):
    images = image_table(per_class=60)
    arrays = noise(len(images)) + by_class(images, 0, 20, 40).astype(np.uint8)[:, None, None, None]
    shuffled = images["class"].sample(frac=1, random_state=3).to_numpy()
    images = images.assign(**{"class": shuffled})
    prepared(images, cell_table(images, np.random.default_rng(0).integers(1, 9, len(images))))
    found = score(trained(images), images, arrays, paths).drop(index=baselines.COMMONEST)
    assert (found["auroc_low"] < 0.5).all() and (found["auroc_high"] > 0.5).all()


def test_neither_labels_nor_numbers_of_the_test_subset_are_learnt_from():
    images = image_table()
    known = pd.DataFrame({"number": by_class(images, 0.0, 1.0, 2.0)})
    known["number"] += np.random.default_rng(0).normal(0, 0.5, len(known))
    honest = baselines.predict_from(known, images, CLASSES)
    test = images["split"] == "test"
    lies = images.assign(**{"class": images["class"].mask(test, "MPP")})
    assert (baselines.predict_from(known, lies, CLASSES) == honest).all()
    one_odd = known.copy()
    one_odd.loc[test.idxmax(), "number"] = 1e6
    changed = (baselines.predict_from(one_odd, images, CLASSES) != honest).any(axis=1)
    assert changed.sum() == 1


def test_what_is_absent_counts_as_the_training_mean():
    images = image_table()
    known = pd.DataFrame({"number": by_class(images, 0.0, 1.0, 2.0)})
    known["number"] += np.random.default_rng(0).normal(0, 0.5, len(known))
    first = images.index[images["split"] == "test"][0]
    mean = known.loc[images["split"] == "train", "number"].mean()
    chances = []
    for value in (np.nan, mean):
        known.loc[first, "number"] = value
        chances.append(baselines.predict_from(known, images, CLASSES))
    assert np.allclose(*chances)


def test_cells_not_found_are_said_and_no_crash(paths, trained, prepared):
    images = image_table()
    run, arrays = trained(images), noise(len(images))
    found = score(run, images, arrays, paths)
    for name in ("cell count", "cell count and size"):
        assert found.loc[name, "missing"] == "no cells found yet: run notebook 02"
        assert np.isnan(found.loc[name, "auroc"])
    shown = shortcuts.baseline_table(found.reset_index())
    assert shown.loc["cell count", "AUROC"] == "no cells found yet: run notebook 02"
    assert "Not tried: cell count (no cells found yet: run" in shortcuts.sentence(
        found.reset_index()
    )
    cells = cell_table(images, np.full(len(images), 2))
    prepared(images, cells[cells["image_id"] != "i000"])
    assert (
        "1 images were never searched"
        in score(run, images, arrays, paths).loc["cell count", "missing"]
    )
    prepared(images, cells.assign(split="train"))
    assert "has another split" in score(run, images, arrays, paths).loc["cell count", "missing"]


@pytest.fixture
def simulated(paths, prepared):
    """Return images, cells and traits of which one gives the class away, with some cells unknown.

    A true cell lies 3 px beside each found one, but 20 px away from that of the last images.
    """
    images = image_table().assign(simulated=True)
    cells = cell_table(images, np.full(len(images), 2), sigma=8.0)
    rng = np.random.default_rng(0)
    truth = cells.merge(images[["image_id", "source"]], on="image_id")
    lost = truth["image_id"].isin(images["image_id"][-6:])
    truth = truth.assign(
        y=truth["y"] + np.where(lost, 20, 3),
        telling=by_class(truth, 1.0, 2.0, 4.0) * rng.lognormal(0, 0.05, len(truth)),
        idle=rng.normal(0, 1, len(truth)),
    )
    write_csv(paths.truth / "cells.csv", truth[["source", "y", "x", "telling", "idle"]])
    prepared(images, cells)
    return images, cells


@pytest.mark.parametrize("level", ["image", "cell"])
def test_true_traits_are_a_ceiling_in_simulated_data(level, paths, trained, simulated):
    table = simulated[level == "cell"]
    arrays = noise(len(table))
    found = score(trained(table), table, arrays, paths, {"telling": "of a dict", "idle": ""})
    row = found.loc[baselines.CEILING]
    # the three numbers (with a logarithm), of images with their spread and the count, and squares
    assert row["features"] == {"cell": 2 * 3, "image": 2 * (2 * 3 + 1)}[level]
    assert row["auroc"] > 0.9 and row["difference_high"] < 0
    assert "A regression on the true traits of the simulated cells reaches" in shortcuts.sentence(
        found.reset_index()
    )
    assert baselines.CEILING not in score(trained(table), table, arrays, paths).index
    real = table.assign(simulated=False)
    assert baselines.CEILING not in score(trained(real), real, arrays, paths, ["telling"]).index


def test_a_cell_that_is_none_has_no_traits(paths, simulated):
    _, cells = simulated
    known = baselines._true_traits(cells, paths, ["telling"])
    lost = cells["image_id"] >= "i102"
    assert known.isna().all(axis=1).tolist() == lost.tolist()
    train = known[(cells["split"] == "train") & ~lost]
    assert np.allclose(train[["telling", "log telling"]].mean(), 0)
    assert np.allclose(train[["telling", "log telling"]].std(), 1)


def test_traits_that_cannot_be_read_are_said(paths, trained, simulated):
    _, cells = simulated
    run, arrays = trained(cells), noise(len(cells))
    found = score(run, cells, arrays, paths, ["telling", "unheard"])
    assert "lacks the columns unheard" in found.loc[baselines.CEILING, "missing"]
    nowhere = score(run, cells.assign(y=np.nan, x=np.nan), arrays, paths, ["telling"])
    assert "cannot be brought together" in nowhere.loc[baselines.CEILING, "missing"]
    (paths.truth / "cells.csv").unlink()
    found = score(run, cells, arrays, paths, ["telling"])
    assert "there is no" in found.loc[baselines.CEILING, "missing"]


def test_own_ready_patches_of_two_classes_and_one_slice(paths, trained):
    images = image_table(("CD34+/-", "other"), splits=("train", "train", "validation"))
    cells = cell_table(images, np.full(len(images), 2), sigma=np.nan, y=np.nan, x=np.nan)
    run = trained(cells, ("CD34+/-", "other"), channels=(1,), mean=(0.5,), std=(0.2,))
    bright = (cells["class"] == "other").to_numpy().astype(np.uint8)
    arrays = noise(len(cells))
    arrays[..., 1] += 30 * bright[:, None, None]
    found = score(run, cells, arrays, paths)
    assert run.judged_on == "validation"
    assert found.loc["blob size", "missing"] == "these cells came without one"
    assert found.loc["brightness", "features"] == 1
    assert found.loc["brightness", "auroc"] > 0.99
    arrays[..., 1] = noise(len(cells))[..., 1]
    arrays[..., 0] += 30 * bright[:, None, None]  # which this run does not see
    assert score(run, cells, arrays, paths).loc["brightness", "auroc"] < 0.7


def test_tiny_classes_have_no_interval_and_no_verdict(paths, trained):
    images = image_table(per_class=6)
    found = score(trained(images), images, noise(len(images)), paths)
    assert found[["auroc_low", "difference_low"]].isna().all(axis=None)
    assert found["auroc"].drop(["cell count", "cell count and size"]).notna().all()
    text = shortcuts.sentence(found.reset_index())
    assert text.startswith("Too little to judge") and "no interval" in text


def test_a_subset_of_one_class_is_said(paths, trained):
    images = image_table()
    images.loc[(images["split"] == "test") & (images["class"] != "MPP"), "split"] = "train"
    found = score(trained(images), images, noise(len(images)), paths)
    assert "one class only" in shortcuts.sentence(found.reset_index())


def test_the_table_is_written_into_the_run(paths, trained):
    images = image_table()
    run = trained(images)
    found = shortcuts.score_baselines(run, images, noise(len(images)), paths)
    stored = pd.read_csv(run.directory / "baselines.csv", keep_default_na=False, na_values=[""])
    assert stored.columns.tolist() == found.columns.tolist()
    assert stored["predictor"].tolist() == found["predictor"].tolist()
    assert np.allclose(stored["auroc"], found["auroc"], equal_nan=True)


def test_samples_of_another_table_are_refused(paths, trained):
    images = image_table()
    run = trained(images)
    with pytest.raises(ValueError, match="trained on another table of images"):
        shortcuts.score_baselines(run, images[::-1], noise(len(images)), paths)


def scored(**differences):
    """Return a table as `score_baselines` does; differences are (low, high) by predictor."""
    rows = [{"predictor": baselines.NETWORK, "auroc": 0.9, "missing": ""}]
    for name, (low, high) in differences.items():
        gap = (low + high) / 2
        row = {"predictor": name, "auroc": 0.9 - gap, "missing": "", "difference": gap}
        rows.append(row | {"difference_low": low, "difference_high": high})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (
            {"brightness": (0.3, 0.4), "count": (0.02, 0.08)},
            "exceeds every predictor that needs no network, the best being count with an AUROC of "
            "0.850; the difference, network minus it, is +0.050 (+0.020 to +0.080).",
        ),
        (
            {"brightness": (0.3, 0.4), "count": (-0.02, 0.08)},
            "it is not told apart from a regression on count with",
        ),
        ({"brightness": (-0.4, -0.3)}, "needs no network beats this network: brightness with"),
        (
            {"brightness": (-0.1, 0.6), "count": (0.02, 0.08)},
            "exceeds the best predictor that needs no network, count with an AUROC of 0.850, but "
            "is not told apart from brightness;",
        ),
    ],
)
def test_the_sentence_says_what_the_intervals_allow(differences, expected):
    assert expected in shortcuts.sentence(scored(**differences))
