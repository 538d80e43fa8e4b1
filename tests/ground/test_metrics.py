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


def test_intervals_are_those_of_resampling_images_one_at_a_time():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    truth = (np.arange(30) % 3)[images]
    probabilities = softmax(rng.normal(size=(len(truth), 3)) + np.eye(3)[truth])
    fast = metrics.intervals(truth, probabilities, CLASSES, images, resamples=1000)

    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1000)
    slow = []
    for counts in weights:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(images == k), n) for k, n in enumerate(counts)]
        ).astype(int)
        slow.append(metrics.score(truth[rows], probabilities[rows], CLASSES))
    for key, bounds in fast.items():
        expected = np.quantile([one[key] for one in slow], [0.025, 0.975])
        assert bounds == pytest.approx(expected), key


def test_intervals_over_images_are_wider_than_over_cells_of_the_same_images():
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(60), 20)
    truth = (np.arange(60) % 3)[images]
    shared = rng.normal(size=(60, 3))[images]
    probabilities = softmax(shared + 0.3 * rng.normal(size=(1200, 3)) + np.eye(3)[truth])
    low, high = metrics.intervals(truth, probabilities, CLASSES, images)["auroc"]
    cell_low, cell_high = metrics.intervals(
        truth, probabilities, CLASSES, np.arange(1200), resamples=500
    )["auroc"]
    assert high - low > 2 * (cell_high - cell_low)


def test_intervals_of_the_papers_size_take_seconds():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 708, 15_000)
    truth = rng.integers(0, 3, 708)[images]
    probabilities = softmax(rng.normal(size=(15_000, 3)) + np.eye(3)[truth])
    started = time.process_time()
    metrics.intervals(truth, probabilities, CLASSES, images, resamples=2000)
    assert time.process_time() - started < 10


def test_probabilities_are_read_in_the_order_of_classes():
    table = pd.DataFrame({"p_b": [0.2], "p_a": [0.8]})
    assert metrics.probability_matrix(table, ["a", "b"]).tolist() == [[0.8, 0.2]]
