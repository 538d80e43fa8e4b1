"""What the intervals cover, and how often equal models are called different: by simulation.

``python benchmarks/coverage.py`` simulates test sets of images whose cells resemble each other
(correlation within an image 0.05 to 0.4, 5 to 40 cells an image, three classes), scores them with
the project's own functions, and writes two tables. *Before* stands for the percentile bootstrap
over images and its p-value, which the project used until it was measured here.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import metrics
from hsc_utils.comparison import compare as compare_models
from hsc_utils.comparison import holm, leave_one_out_scores

sys.path.insert(0, str(Path(__file__).parent))
from machine import write_results

CLASSES = ("LT-HSC", "ST-HSC", "MPP")
SCORES = ("auroc", "balanced_accuracy")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (N, K)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def simulate(
    rng: np.random.Generator,
    days_of_class: int,
    images_of_day: int,
    cells: tuple[int, int],
    within_image: float,
    signals: np.ndarray,
    within_day: float = 0.0,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Draw one test set; models differ by their signal and in how they see each image and cell.

    Returns
    -------
    truth, probabilities (one array a model), images, days
        By cell. A day holds one class, as where each class is sorted on days of its own.
    """
    count = 3 * days_of_class * images_of_day
    day_of_image = np.repeat(np.arange(3 * days_of_class), images_of_day)
    images = np.repeat(np.arange(count), rng.integers(cells[0], cells[1] + 1, count))
    days = day_of_image[images]
    truth = days // days_of_class
    shares = {"day": within_day, "image": within_image, "cell": 1 - within_day - within_image}

    def noise() -> np.ndarray:
        units = {"day": days, "image": images, "cell": np.arange(len(images))}
        drawn = [
            np.sqrt(shares[key]) * rng.normal(size=(unit.max() + 1, 3))[unit]
            for key, unit in units.items()
        ]
        return np.sum(drawn, axis=0)

    common, truths = noise(), np.eye(3)[truth]
    models = []
    for signal in signals:
        # models see the same cells, so most of what is hard for one is hard for all
        own = np.sqrt(0.8) * common + np.sqrt(0.2) * noise() if len(signals) > 1 else common
        models.append(softmax(own + signal * truths))
    return truth, models, images, days


def true_scores(signal: float) -> dict[str, float]:
    """Return the scores in an endless test set; correlations do not change them."""
    rng = np.random.default_rng(0)
    truth, (probabilities,), _, _ = simulate(rng, 1, 100_000, (1, 1), 0, np.array([signal]))
    return metrics.score(truth, probabilities, CLASSES)


def bootstrapped(
    rng: np.random.Generator, models: list[np.ndarray], truth: np.ndarray, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Score 200 resamples of the images, the mean over models: what *before* means."""
    count = images.max() + 1
    weights = rng.multinomial(count, np.full(count, 1 / count), size=200)
    scored = [
        metrics.weighted_scores(weights, metrics.sums_by_image(truth, p, images))[0] for p in models
    ]
    return {key: np.mean([s[key] for s in scored], axis=0) for key in metrics.SCORES}


def percentile(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval."""
    return tuple(np.nanquantile(values, [0.025, 0.975]))


def cover_scores(repetitions: int, seed: int) -> pd.DataFrame:
    """Count how often 95 % intervals of scores hold the truth."""
    rng, rows = np.random.default_rng(seed), []
    cases = [
        (signal, images, correlation)
        for signal in (1.0, 2.0, 3.0)
        for images in (6, 21, 60, 201, 699)
        for correlation in (0.05, 0.4)
    ]
    for signal, count, correlation in cases:
        truths, hits, shown = true_scores(signal), {}, 0
        times = repetitions // {201: 2, 699: 5}.get(count, 1)
        for _ in range(times):
            truth, (p,), images, _ = simulate(
                rng, 1, count // 3, (5, 40), correlation, np.array([signal])
            )
            drawn = bootstrapped(rng, [p], truth, images)
            ours = metrics.intervals(truth, p, CLASSES, images)
            for key in (*SCORES, "brier"):
                for name, (low, high) in (("before", percentile(drawn[key])), ("now", ours[key])):
                    hits.setdefault((key, name), []).append(
                        np.nan if np.isnan(low) else low <= truths[key] <= high
                    )
        for key in (*SCORES, "brier"):
            before, now = (np.array(hits[key, name], float) for name in ("before", "now"))
            shown = np.isfinite(now).mean()
            rows.append(
                {
                    "question": "interval of a score",
                    "score": key,
                    "true_score": round(truths[key], 3),
                    "images": count,
                    "correlation": correlation,
                    "before": np.nanmean(before).round(3),
                    "now": np.nanmean(now).round(3) if shown else np.nan,
                    "shown": round(shown, 3),
                    "repetitions": times,
                }
            )
        print(pd.DataFrame(rows[-3:]).to_string(index=False, header=False), flush=True)
    return pd.DataFrame(rows)


def cover_days(repetitions: int, seed: int) -> pd.DataFrame:
    """Count the same where images of a day resemble each other, and a day holds one class."""
    rng, rows = np.random.default_rng(seed), []
    for days, correlation in ((1, 0.2), (2, 0.2), (4, 0.2), (8, 0.1), (8, 0.3), (20, 0.3)):
        truths = true_scores(2.0)["auroc"]
        before, now = [], []
        for _ in range(repetitions):
            truth, (p,), images, day = simulate(
                rng, days, 10, (5, 20), 0.1, np.array([2.0]), correlation
            )
            low, high = percentile(bootstrapped(rng, [p], truth, images)["auroc"])
            before.append(low <= truths <= high)
            low, high = metrics.intervals(truth, p, CLASSES, images, day.astype(str))["auroc"]
            now.append(low <= truths <= high)
        said = metrics.caution(truth, images, day.astype(str))
        rows.append(
            {
                "question": "interval where days resemble themselves",
                "score": "auroc",
                "true_score": round(truths, 3),
                "images": 30 * days,
                "days": 3 * days,
                "correlation": correlation,
                "before": np.mean(before),
                "now": np.mean(now),
                "shown": "for these days only" if "these days only" in said else "for other days",
                "repetitions": repetitions,
            }
        )
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=False), flush=True)
    return pd.DataFrame(rows)


def slope_of_auroc(signal: float) -> float:
    """Return how much AUROC a unit of signal gains."""
    low, high = (true_scores(signal + step)["auroc"] for step in (-0.05, 0.05))
    return (high - low) / 0.1


def tables_of(truth: np.ndarray, models: list[np.ndarray], images: np.ndarray, seeds: int):
    """Lay out simulated predictions as `comparison.read_predictions` does."""
    runs = pd.DataFrame(
        {
            "model": [f"model{k // seeds}" for k in range(len(models))],
            "seed": [k % seeds for k in range(len(models))],
            "class_names": [CLASSES] * len(models),
        }
    )
    labels = {"image_id": images.astype(str), "class": np.array(CLASSES)[truth]}
    columns = [f"p_{name}" for name in CLASSES]
    return runs, [pd.DataFrame(p, columns=columns).assign(**labels) for p in models]


def call_different(repetitions: int, seed: int) -> pd.DataFrame:
    """Count how often architectures that are equal, or differ, are called different (p < 0.05)."""
    rng, rows = np.random.default_rng(seed), []
    slope = slope_of_auroc(2.0)
    cases = [
        (images, spread, seeds, 0.0)
        for images in (60, 201, 699)
        for spread in (0.0, 0.003, 0.01)
        for seeds in (1, 3, 5)
    ]
    cases += [(699, 0.003, s, g) for s in (3, 5) for g in (0.01, 0.02, 0.03)]
    for images, spread, seeds, gap in cases:
        before, now = [], []
        for _ in range(repetitions if images < 600 else repetitions // 2):
            means = np.repeat([2.0, 2.0 + gap / slope], seeds)
            signals = means + rng.normal(size=2 * seeds) * spread / slope
            truth, models, image, _ = simulate(rng, 1, images // 3, (1, 1), 0.2, signals)
            runs, tables = tables_of(truth, models, image, seeds)
            row = compare_models(leave_one_out_scores(runs, tables)).query(
                "against != '' and score == 'auroc'"
            )
            now.append(row["p"].iloc[0] < 0.05)
            state = rng.bit_generator.state
            ours = bootstrapped(rng, models[:seeds], truth, image)["auroc"]
            rng.bit_generator.state = state
            gaps = ours - bootstrapped(rng, models[seeds:], truth, image)["auroc"]
            fewer = min((gaps <= 0).sum(), (gaps >= 0).sum())
            before.append(2 * (fewer + 1) / (len(gaps) + 1) < 0.05)
        rows.append(
            {
                "question": "equal architectures called different"
                if gap == 0
                else "different architectures told apart",
                "score": "auroc",
                "true_difference": gap,
                "images": images,
                "spread_of_seeds": spread,
                "seeds": seeds,
                "before": np.mean(before).round(3),
                "now": np.mean(now).round(3),
                "shown": "for these two trained models" if seeds == 1 else "for architectures",
                "repetitions": len(now),
            }
        )
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=False), flush=True)
    return pd.DataFrame(rows)


def call_best(repetitions: int, seed: int) -> pd.DataFrame:
    """Count how often any of nine equal backbones is called worse than the best of them."""
    rng, rows = np.random.default_rng(seed), []
    slope = slope_of_auroc(2.0)
    for seeds, spread in ((3, 0.003), (3, 0.01), (5, 0.01)):
        wrong, flattery = [], []
        for _ in range(repetitions // 4):
            signals = 2.0 + rng.normal(size=9 * seeds) * spread / slope
            truth, models, image, _ = simulate(rng, 1, 67, (1, 1), 0.2, signals)
            (table,) = holm(
                compare_models(leave_one_out_scores(*tables_of(truth, models, image, seeds)))
            )
            alone = table.query("against == '' and score == 'auroc'").set_index("model")["estimate"]
            best = alone.idxmax()
            mine = table[(table["model"] == best) | (table["against"] == best)]
            wrong.append((mine["p_holm"] < 0.05).any())
            flattery.append(alone.max() - alone.mean())
        rows.append(
            {
                "question": "any of nine equal backbones called worse than the best",
                "score": "both",
                "images": 201,
                "spread_of_seeds": spread,
                "seeds": seeds,
                "now": np.mean(wrong).round(3),
                "flattery_of_the_best": np.mean(flattery).round(4),
                "repetitions": len(wrong),
            }
        )
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=False), flush=True)
    return pd.DataFrame(rows)


def cover_calibration(repetitions: int, seed: int) -> pd.DataFrame:
    """Count how often a calibrated model's calibration error lies where it is said to."""
    rng, rows = np.random.default_rng(seed), []
    for samples in (60, 300, 3000):
        before, now = [], []
        for _ in range(repetitions // 4):
            p = softmax(1.5 * rng.normal(size=(samples, 3)))
            truth = (rng.random((samples, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)
            low, high = metrics.calibrated_ece(p, draws=300)
            now.append(low <= metrics.score(truth, p, CLASSES)["ece"] <= high)
            sums = metrics.sums_by_image(truth, p, np.arange(samples)) if samples < 400 else None
            if sums:
                w = rng.multinomial(samples, np.full(samples, 1 / samples), size=300)
                before.append(percentile(metrics.weighted_scores(w, sums)[0]["ece"])[0] <= 0)
        rows.append(
            {
                "question": "calibration error of a calibrated model",
                "score": "ece",
                "true_score": 0,
                "images": samples,
                "before": np.mean(before) if before else np.nan,
                "now": np.mean(now).round(3),
                "repetitions": len(now),
            }
        )
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=False), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Run every question and write ``results/coverage.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args()
    questions = (cover_scores, cover_days, call_different, call_best, cover_calibration)
    tables = [ask(options.repetitions, seed) for seed, ask in enumerate(questions)]
    rows = pd.concat(tables, ignore_index=True).to_dict("records")
    write_results("coverage", rows, ("numpy", "scipy", "scikit-learn"))


if __name__ == "__main__":
    main()
