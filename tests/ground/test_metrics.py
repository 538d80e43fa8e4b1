import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hsc_utils import metrics

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@st.composite
def predictions(draw):
    """Truth with every class, and probabilities coarse enough to tie."""
    count = draw(st.integers(6, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = np.concatenate([np.arange(3), rng.integers(0, 3, count - 3)])
    logits = rng.integers(-2, 3, (count, 3)) + rng.uniform(0, 2) * np.eye(3)[truth]
    return truth, softmax(logits)


def paper_by_hand(truth, predicted):
    scores = []
    for k in sorted(set(truth)):
        tp = sum(t == k and p == k for t, p in zip(truth, predicted, strict=True))
        fn = sum(t == k and p != k for t, p in zip(truth, predicted, strict=True))
        tn = sum(t != k and p != k for t, p in zip(truth, predicted, strict=True))
        fp = sum(t != k and p == k for t, p in zip(truth, predicted, strict=True))
        scores.append((tp / (tp + fn) + tn / (tn + fp)) / 2)
    return np.mean(scores)


@settings(deadline=None, max_examples=60)
@given(predictions())
def test_scores_agree_with_scikit_learn_and_with_counting(sample):
    truth, probabilities = sample
    predicted = probabilities.argmax(1)
    found = metrics.score(truth, probabilities, CLASSES)
    assert found["balanced_accuracy"] == pytest.approx(paper_by_hand(truth, predicted))
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(
        paper_by_hand(truth, predicted)
    )
    assert found["balanced_accuracy_sklearn"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, predicted)
    )
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    assert found["auroc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, probabilities, multi_class="ovr")
    )
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro"))
    assert found["confusion"] == sklearn_metrics.confusion_matrix(truth, predicted).tolist()
    for index, name in enumerate(CLASSES):
        assert found["per_class"][name]["auroc"] == pytest.approx(
            sklearn_metrics.roc_auc_score(truth == index, probabilities[:, index])
        )
        assert found["per_class"][name]["specificity"] == pytest.approx(
            sklearn_metrics.recall_score(truth != index, predicted != index)
        )


@settings(deadline=None, max_examples=30)
@given(predictions())
def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(sample):
    truth, probabilities = sample
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum(np.floor(confidence * metrics.ECE_BINS), metrics.ECE_BINS - 1)
    by_hand = sum(
        (bins == b).mean() * abs(confidence[bins == b].mean() - hit[bins == b].mean())
        for b in np.unique(bins)
    )
    assert metrics.score(truth, probabilities, CLASSES)["ece"] == pytest.approx(by_hand)
    table = metrics.reliability(truth, probabilities, CLASSES)
    assert (table["samples"] * (table["confidence"] - table["accuracy"]).abs()).sum() / len(
        truth
    ) == pytest.approx(by_hand)


def test_the_papers_balanced_accuracy_is_not_scikit_learns():
    truth, predicted = ["a", "b", "c"], ["a", "b", "b"]
    # a: (1 + 1) / 2; b: (1 + 1/2) / 2; c: (0 + 1) / 2
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(0.75)
    assert sklearn_metrics.balanced_accuracy_score(truth, predicted) == pytest.approx(2 / 3)


def test_labels_may_be_names_or_indices():
    probabilities = softmax(np.random.default_rng(0).normal(size=(9, 3)))
    indices = np.arange(9) % 3
    by_name = metrics.score([CLASSES[k] for k in indices], probabilities, CLASSES)
    assert by_name == metrics.score(indices, probabilities, CLASSES)


def test_a_class_absent_from_the_test_set_is_named_and_left_out():
    truth = np.array([0, 0, 1, 1, 1])
    probabilities = softmax(np.random.default_rng(0).normal(size=(5, 3)))
    found = metrics.score(truth, probabilities, CLASSES)
    assert found["left_out"] == ["MPP"]
    assert np.isnan(found["per_class"]["MPP"]["auroc"])
    assert found["auroc"] == pytest.approx(
        np.mean([found["per_class"][name]["auroc"] for name in ("LT-HSC", "ST-HSC")])
    )
    assert found["balanced_accuracy"] == pytest.approx(
        paper_by_hand(truth, probabilities.argmax(1))
    )


def test_constant_scores_are_a_coin_toss():
    found = metrics.score([0, 1, 2, 2], np.full((4, 3), 1 / 3), CLASSES)
    assert found["auroc"] == pytest.approx(0.5)


def test_one_class_alone_has_no_score():
    found = metrics.score([1, 1], np.full((2, 3), 1 / 3), CLASSES)
    assert np.isnan(found["auroc"]) and np.isnan(found["balanced_accuracy"])
    low, high = metrics.intervals([1, 1], np.full((2, 3), 1 / 3), CLASSES, ["a", "b"])["auroc"]
    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        ([0, 1], np.full((2, 2), 0.5), r"shape \(2, 2\)"),
        ([0, 1], np.full((2, 3), 0.5), "sum to 1"),
        ([0, 3], np.full((2, 3), 1 / 3), "not one of the classes"),
        (["MPP", "HSC"], np.full((2, 3), 1 / 3), "not one of the classes"),
        ([], np.empty((0, 3)), "no samples"),
        ([0, 1], np.full((2, 3), np.nan), "sum to 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.score(truth, probabilities, CLASSES)


def simulated(seed, per_class, correlation=0.2, signal=1.0, cells=20):
    """Images of one class each, whose cells resemble each other."""
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(3 * per_class), cells)
    truth = (np.arange(3 * per_class) % 3)[images]
    shared = rng.normal(size=(3 * per_class, 3))[images]
    own = rng.normal(size=(len(images), 3))
    logits = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return truth, softmax(logits + signal * np.eye(3)[truth]), images


def test_leaving_out_is_scoring_without():
    truth, probabilities, images = simulated(0, 5)
    codes, (units,) = metrics.sampling_units(truth, images)
    sums = metrics.sums_by_image(truth, probabilities, codes)
    fast, _ = metrics.weighted_scores(metrics.leave_one_out(units), sums)
    for image in range(15):
        kept = images != image
        slow = metrics.score(truth[kept], probabilities[kept], CLASSES)
        for key in metrics.SCORES:
            assert fast[key][1 + image] == pytest.approx(slow[key]), key


def test_the_jackknife_of_a_mean_is_the_textbook_variance():
    values = np.random.default_rng(0).normal(size=40)
    without = (values.sum() - values) / 39
    variance, freedom = metrics.jackknife(without)
    assert variance == pytest.approx(values.var(ddof=1) / 40)
    assert 10 < freedom <= 39
    # one unit that carries everything leaves next to no degrees of freedom
    assert metrics.jackknife(np.array([0.0] * 30 + [1.0]))[1] < 3


@pytest.mark.parametrize(("per_class", "signal"), [(7, 1.0), (7, 2.5), (20, 2.5)])
def test_intervals_cover_what_they_claim(per_class, signal):
    """A small version of benchmarks/coverage.py: 95 % within the error of 200 repetitions."""
    truth, probabilities, _ = simulated(0, 30_000, 0, signal, 1)
    true = metrics.score(truth, probabilities, CLASSES)
    hits = []
    for seed in range(200):
        truth, probabilities, images = simulated(seed, per_class, 0.3, signal, 10)
        found = metrics.intervals(truth, probabilities, CLASSES, images)
        hits.append([found[k][0] <= true[k] <= found[k][1] for k in ("auroc", "brier")])
    assert (np.mean(hits, axis=0) > 0.89).all()


def test_a_nearly_perfect_score_keeps_an_interval_that_says_something():
    rng, truth = np.random.default_rng(3), np.arange(54) % 3
    lows, covered = [], []
    for _ in range(60):
        logits = rng.normal(size=(54, 3))
        logits[np.arange(54), truth] += 3.0  # an AUROC of 0.998 in truth
        low, high = metrics.intervals(truth, softmax(logits), CLASSES, np.arange(54))["auroc"]
        if not np.isnan(low):  # as it is at 1
            lows.append(low)
            covered.append(low <= 0.998 <= high)
    assert len(lows) > 20 and np.median(lows) > 0.9 and np.mean(covered) > 0.9


def test_days_that_resemble_themselves_widen_the_interval():
    rng = np.random.default_rng(1)
    days = np.repeat(np.arange(24), 5)
    truth = days % 3
    logits = rng.normal(size=(24, 3))[days] + 0.3 * rng.normal(size=(120, 3))
    probabilities, images = softmax(logits + np.eye(3)[truth]), np.arange(120)
    over_images = metrics.intervals(truth, probabilities, CLASSES, images)["auroc"]
    over_days = metrics.intervals(truth, probabilities, CLASSES, images, days.astype(str))["auroc"]
    assert np.ptp(over_days) > 1.5 * np.ptp(over_images)
    assert "other days" in metrics.caution(truth, images, days.astype(str))
    few = (days % 3).astype(str)  # a day per class
    assert metrics.intervals(truth, probabilities, CLASSES, images, few)["auroc"] == over_images
    assert "these days only" in metrics.caution(truth, images, few)


def test_no_interval_is_given_where_none_can_be():
    truth, probabilities, images = simulated(0, 4)
    assert np.isnan(metrics.intervals(truth, probabilities, CLASSES, images)["auroc"]).all()
    assert "4 independent image(s): too few" in metrics.caution(truth, images)
    truth, _, images = simulated(0, 6)
    found = metrics.intervals(truth, np.eye(3)[truth], CLASSES, images)
    assert np.isnan(found["auroc"]).all() and np.isnan(found["accuracy"]).all()
    assert "rough" in metrics.caution(truth, images)
    assert "rough" not in metrics.caution(*simulated(0, 20)[::2])


def test_a_calibrated_model_shows_the_error_it_is_said_to():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(100):
        probabilities = softmax(1.5 * rng.normal(size=(200, 3)))
        truth = (rng.random((200, 1)) > probabilities.cumsum(1)).sum(1).clip(max=2)
        low, high = metrics.calibrated_ece(probabilities, draws=200)
        inside.append(low <= metrics.score(truth, probabilities, CLASSES)["ece"] <= high)
    assert np.mean(inside) > 0.88


def test_the_brier_score_agrees_with_scikit_learn():
    truth, probabilities, _ = simulated(0, 5)
    by_class = [sklearn_metrics.brier_score_loss(truth == k, probabilities[:, k]) for k in range(3)]
    assert metrics.score(truth, probabilities, CLASSES)["brier"] == pytest.approx(sum(by_class) / 2)


def test_means_by_class_count_images():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(30), 10)
    table = pd.DataFrame({"class": np.array(["a", "b"])[images % 2], "image_id": images})
    table["x"] = rng.normal(size=30)[images]
    means = metrics.means_by_class(table, ["x"]).set_index("class")
    of_images = table.groupby("image_id")["x"].first()
    assert means.loc["all classes", "mean"] == pytest.approx(of_images.mean())
    low, high = means.loc["all classes", ["low", "high"]]
    assert (high - low) / 2 == pytest.approx(2.05 * of_images.std() / np.sqrt(30), rel=0.05)
    few = metrics.means_by_class(table[table["image_id"] < 4], ["x"])
    assert few["low"].isna().all() and few["mean"].notna().all()


def test_intervals_over_images_are_wider_than_over_cells_of_the_same_images():
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(60), 20)
    truth = (np.arange(60) % 3)[images]
    shared = rng.normal(size=(60, 3))[images]
    probabilities = softmax(shared + 0.3 * rng.normal(size=(1200, 3)) + np.eye(3)[truth])
    low, high = metrics.intervals(truth, probabilities, CLASSES, images)["auroc"]
    cell_low, cell_high = metrics.intervals(truth, probabilities, CLASSES, np.arange(1200))["auroc"]
    assert high - low > 2 * (cell_high - cell_low)


def test_intervals_of_the_papers_size_take_seconds():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 708, 15_000)
    truth = rng.integers(0, 3, 708)[images]
    probabilities = softmax(rng.normal(size=(15_000, 3)) + np.eye(3)[truth])
    started = time.process_time()
    metrics.intervals(truth, probabilities, CLASSES, images)
    assert time.process_time() - started < 10


def test_probabilities_are_read_in_the_order_of_classes():
    table = pd.DataFrame({"p_b": [0.2], "p_a": [0.8]})
    assert metrics.probability_matrix(table, ["a", "b"]).tolist() == [[0.8, 0.2]]


@settings(deadline=None, max_examples=40)
@given(predictions(), st.floats(0.1, 8), st.floats(0.5, 2))
def test_a_temperature_changes_how_sure_a_model_is_and_no_verdict(sample, first, second):
    truth, probabilities = sample
    assert np.allclose(metrics.tempered(probabilities, 1), probabilities, rtol=1e-12)
    after = metrics.tempered(probabilities, first)
    assert after.dtype == np.float64 and np.allclose(after.sum(1), 1)
    chosen = probabilities.argmax(1)
    assert np.allclose(after[np.arange(len(truth)), chosen], after.max(1))
    softer = after.max(1) <= probabilities.max(1) + 1e-12
    assert softer.all() if first >= 1 else (after.max(1) >= probabilities.max(1) - 1e-12).all()
    both = metrics.tempered(after, second)
    assert np.allclose(both, metrics.tempered(probabilities, first * second))


@settings(deadline=None, max_examples=40)
@given(predictions(), st.integers(1, 8))
def test_on_what_it_is_fitted_on_a_temperature_never_costs(sample, cells):
    truth, probabilities = sample
    images = np.arange(len(truth)) // cells
    temperature = metrics.fit_temperature(truth, probabilities, images)
    low, high = metrics.TEMPERATURES
    assert low <= temperature <= high
    before, after = (
        metrics.log_loss(truth, metrics.tempered(probabilities, t)) for t in (1, temperature)
    )
    assert after <= before


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.4, 3))
def test_a_temperature_is_recovered_and_scales_with_the_logits(seed, factor):
    rng = np.random.default_rng(seed)
    honest = softmax(rng.normal(size=(1500, 3), scale=2))
    truth = (honest.cumsum(1) < rng.random((1500, 1))).sum(1).clip(max=2)
    # for so many images the prior counts for nothing
    found = metrics.fit_temperature(truth, honest)
    assert found == pytest.approx(1, rel=0.2)
    bolder = metrics.fit_temperature(truth, metrics.tempered(honest, 1 / factor))
    assert bolder == pytest.approx(found * factor, rel=0.02)


def test_without_a_mistake_a_temperature_stays_near_1_if_images_are_few():
    """The least log loss lies at 0, however few samples are right and however modestly."""
    right = np.tile([0.7, 0.2, 0.1], (6, 1))
    few = metrics.fit_temperature(np.zeros(6, int), right)
    assert 0.4 < few < 1
    # a hundred cells in each of these images are not more independent than the images
    cells = np.repeat(np.arange(6), 100)
    many = metrics.fit_temperature(np.zeros(600, int), right[cells], cells)
    assert many == pytest.approx(few, rel=1e-3)
    assert metrics.fit_temperature(np.zeros(600, int), right[cells]) < 0.3
    assert metrics.fit_temperature([1], np.array([[0.0, 1.0]])) == pytest.approx(1, abs=1e-3)


def test_a_probability_of_0_for_the_truth_is_no_end():
    probabilities = np.array([[1.0, 0.0], [0.9, 0.1], [0.2, 0.8]])
    temperature = metrics.fit_temperature([1, 0, 1], probabilities)
    assert np.isfinite(metrics.log_loss(np.array([1]), metrics.tempered(probabilities[:1], 1)))
    assert 5 < temperature <= metrics.TEMPERATURES[1]
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="is not above 0"):
            metrics.tempered(probabilities, wrong)
    with pytest.raises(ValueError, match="not one of the classes"):
        metrics.fit_temperature([2, 0, 1], probabilities)
