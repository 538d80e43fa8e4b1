import dataclasses

import numpy as np
import pandas as pd
import pytest
from studies import CLASSES, SPLITS, cell_table, image_table, noise

from hsc_utils.shortcuts import audit, retrain, verdicts
from hsc_utils.shortcuts.views import Surroundings
from hsc_utils.study import TrainingSettings

ALONE = ["acquisition", "day", "count", "surroundings", "added"]


def painted(arrays, cells, without=None):
    """Return surroundings that are given, otherwise the pictures as they are."""
    without = arrays if without is None else without
    blank = dict.fromkeys(Surroundings._fields)
    return Surroundings(
        **blank | {"patches": without, "images": without, "cells": cells.assign(usable=True)}
    )


@pytest.fixture
def subject(trained, prepared, paths):
    """Return a function that audits a network which guesses, or knows some, on planted images."""

    def build(images, counts=6, skill=1.0, without=None, level="image", light=0):
        cells = cell_table(images, counts)
        prepared(images, cells)
        table = images if level == "image" else cells
        arrays = noise(len(table)) + np.uint8(light)
        run = trained(table, tuple(table["class"].unique()), skill)
        return audit.subject_of(run, table, arrays, painted(arrays, cells, without), paths)

    return build


def judged_as(*findings):
    table = verdicts.closing_table(*findings)
    return table.set_index("key")["verdict"].to_dict()


def of_class(images, *values):
    return images["class"].map(dict(zip(images["class"].unique(), values, strict=True)))


def dated(images, days):
    """Spread images evenly over days."""
    return images.assign(group=[f"day{k % days}" for k in range(len(images))])


def test_a_clean_study_rings_nothing(subject):
    images = dated(image_table(), 7)
    found = judged_as(audit.ask_trivial(subject(images))[0])
    assert found == dict.fromkeys(ALONE, verdicts.NO_SIGN)


@pytest.mark.parametrize(
    ("key", "planted"),
    [
        ("acquisition", lambda images: {"slices": of_class(images, 2, 3, 4)}),
        ("acquisition", lambda images: {"height": of_class(images, 64, 96, 128)}),
        ("day", lambda images: {"group": of_class(images, "a", "b", "c")}),
        (
            "acquisition",
            lambda images: {
                "acquired_at": of_class(images, "08:00", "11:00", "15:00").radd("2024-03-04T")
            },
        ),
    ],
)
def test_what_hangs_on_the_class_rings_alone(subject, key, planted):
    images = dated(image_table(), 7)
    images = images.assign(**planted(images))
    found = judged_as(audit.ask_trivial(subject(images))[0])
    assert found.pop(key) == verdicts.ALARM
    del found["added"]
    assert set(found.values()) == {verdicts.NO_SIGN}


def test_the_number_of_cells_rings_at_both_levels(subject):
    images = dated(image_table(), 7)
    counts = of_class(images, 2, 9, 4).to_numpy()
    for level in ("image", "cell"):
        found = judged_as(audit.ask_trivial(subject(images, counts, level=level))[0])
        assert found["count"] == verdicts.ALARM
        assert found["surroundings"] == verdicts.NO_SIGN


def test_brightness_beside_the_cells_rings(subject):
    images = dated(image_table(), 7)
    light = of_class(images, 0, 20, 40).to_numpy(np.uint8)[:, None, None, None]
    found = judged_as(audit.ask_trivial(subject(images, light=light))[0])
    assert found["surroundings"] == verdicts.ALARM


def test_an_alarm_that_the_painting_may_have_caused_is_withdrawn(subject):
    """Where a class's larger holes are filled with other grain, they say so themselves."""
    images = dated(image_table(per_class=60), 7)
    without = noise(len(images))
    sides = of_class(images, 4, 8, 12) + np.random.default_rng(0).integers(-2, 3, len(images))
    for picture, side in zip(without, sides, strict=True):
        picture[:side, :side] = 120
    asked = subject(images, without=without)
    findings, _ = audit.ask_trivial(asked)
    row = verdicts.closing_table(findings).set_index("key").loc["surroundings"]
    assert row["verdict"] == verdicts.CANNOT
    assert row["estimate"] > 0.9
    assert "painted pictures" in row["why"]


def test_a_network_that_adds_nothing_to_a_perfect_number_rings(subject):
    images = dated(image_table(), 7).assign(slices=lambda table: of_class(table, 2, 3, 4))
    blind = judged_as(audit.ask_trivial(subject(images, skill=0.0))[0])
    assert blind["added"] == verdicts.ALARM


def test_missing_columns_are_named_and_few_images_are_not_judged(subject):
    findings, alone = audit.ask_trivial(subject(image_table()))
    table = verdicts.closing_table(findings).set_index("key")
    assert table.loc["day", "verdict"] == verdicts.CANNOT
    assert "column group of the table" in table.loc["day", "why"]
    assert "acquired_at" in alone.set_index("known").loc["hour of acquisition", "missing"]
    few, _ = audit.ask_trivial(subject(image_table(per_class=12)))
    assert few["estimate"].drop(1).notna().all()
    assert set(verdicts.closing_table(few)["verdict"]) == {verdicts.CANNOT}


@pytest.mark.parametrize("names", [("A", "B"), tuple("ABCDEFGHIJKL")])
def test_two_and_twelve_classes(subject, names):
    images = dated(image_table(names, per_class=72), 7)
    found = judged_as(audit.ask_trivial(subject(images))[0])
    assert found == dict.fromkeys(ALONE, verdicts.NO_SIGN)


def predictions(subject, skill, seed=5):
    """Return predictions of the samples judged that know the class so well."""
    judged = subject.predictions
    classes = subject.run.config.class_names
    chances = np.random.default_rng(seed).uniform(size=(len(judged), len(classes)))
    chances[np.arange(len(judged)), pd.Index(classes).get_indexer(judged["class"])] += skill
    chances /= chances.sum(axis=1, keepdims=True)
    return judged.assign(**{f"p_{name}": chances[:, k] for k, name in enumerate(classes)})


def test_views_ring_where_surroundings_tell_the_class_or_a_background_matters(subject):
    asked = subject(dated(image_table(per_class=60), 7), level="cell")
    views = {audit.AS_IT_IS: asked.predictions, audit.SURROUNDINGS: predictions(asked, 0.0)}
    same = {audit.OWN_BACKGROUND: predictions(asked, 0.8)}
    quiet = views | same | {audit.OTHER_BACKGROUND: predictions(asked, 0.8, seed=6)}
    findings, scores = audit.ask_views(asked, quiet)
    assert set(judged_as(findings).values()) == {verdicts.NO_SIGN}
    assert scores.set_index("view").loc[audit.SURROUNDINGS, "difference_high"] < 0
    loud = views | same | {audit.OTHER_BACKGROUND: predictions(asked, 0.2)}
    loud[audit.SURROUNDINGS] = predictions(asked, 0.4)
    assert set(judged_as(audit.ask_views(asked, loud)[0]).values()) == {verdicts.ALARM}


def test_fewer_cells_ring_only_where_their_number_gives_the_class_away(subject):
    images = dated(image_table(per_class=60), 7)
    for counts, expected in ((6, verdicts.NO_SIGN), (of_class(images, 2, 9, 4), verdicts.ALARM)):
        asked = subject(images, counts)
        views = {audit.AS_IT_IS: asked.predictions, audit.SURROUNDINGS: predictions(asked, 0.0)}
        views[audit.SAME_NUMBER] = predictions(asked, 0.1).iloc[5:]
        assert judged_as(audit.ask_views(asked, views)[0])["same_number"] == expected


def test_where_the_score_comes_from(subject):
    images = dated(image_table(per_class=60), 7).assign(height=640, width=640)
    asked = subject(images, level="cell")
    findings, thirds = audit.ask_where(asked, asked.table)
    assert set(judged_as(findings)) == {"blur", "border", "neighbours"}
    assert set(judged_as(findings).values()) == {verdicts.NO_SIGN}
    assert thirds.groupby("property")["samples"].sum().eq(asked.judged.sum()).all()
    # a network that knows cells near the border alone
    known = asked.predictions.copy()
    near = asked.table[asked.judged]["y"].to_numpy() < 150
    columns = [f"p_{name}" for name in CLASSES]
    known.loc[~near, columns] = np.random.default_rng(0).dirichlet([9, 9, 9], (~near).sum())
    every = asked.run.predictions
    every.loc[asked.judged, columns] = known[columns].to_numpy()
    every.to_parquet(asked.run.predictions_file)
    assert judged_as(audit.ask_where(asked, asked.table)[0])["border"] == verdicts.ALARM


def test_ready_cells_have_no_border_and_no_neighbours(subject):
    asked = subject(image_table(), level="cell")
    findings, _ = audit.ask_where(asked._replace(table=asked.table.assign(y=np.nan)), asked.table)
    assert findings["key"].tolist() == ["blur"]


@pytest.fixture
def learning(monkeypatch):
    """Let training write predictions of a network that knows days it saw, and no cells."""
    trained_on = []

    def fake(table, arrays, run_dir, settings, **_):
        level = "cell" if "cell_id" in table else "image"
        seen = set(table.loc[table["split"] != "test", "group"])
        trained_on.append((table, arrays, settings))
        truth = pd.Index(CLASSES).get_indexer(table["class"])
        knows = table["group"].isin(seen).to_numpy()
        chances = np.random.default_rng(0).uniform(size=(len(table), 3))
        chances[np.arange(len(table)), truth] += knows
        chances /= chances.sum(axis=1, keepdims=True)
        columns = {f"p_{name}": chances[:, k] for k, name in enumerate(CLASSES)}
        known = table[["image_id", "class", "split", "group"]]
        run_dir.mkdir(parents=True)
        known.assign(id=table[f"{level}_id"], **columns).to_parquet(run_dir / "predictions.parquet")

    monkeypatch.setattr(retrain.training, "train", fake)
    return trained_on


@pytest.mark.parametrize("level", ["image", "cell"])
def test_days_held_out_lower_a_score_that_was_the_days(subject, paths, learning, level):
    images = dated(image_table(per_class=60), 10)
    asked = subject(images, level=level)
    found = audit.ask_days(asked, paths.shortcuts, epochs=1)
    assert judged_as(found) == {"day_held_out": verdicts.ALARM}
    judged = [table[table["split"] == "test"] for table, *_ in learning]
    for table, arrays, settings in learning:
        assert settings.max_epochs == 1
        assert len(arrays) == len(asked.arrays if level == "cell" else table)
        learnt = table[table["split"] != "test"]
        assert set(learnt["class"]) == set(CLASSES)
        if table is learning[0][0] or table is learning[1][0]:
            tested = table[table["split"] == "test"]
            assert not set(learnt["group"]) & set(tested["group"])
    # each way judges every test sample once
    key = f"{level}_id"
    for arm in (judged[:2], judged[2:]):
        assert sorted(pd.concat(arm)[key]) == sorted(asked.predictions["id"])


def test_days_and_classes_that_coincide_cannot_be_told(subject, paths):
    images = image_table()
    images = images.assign(group=of_class(images, "a", "b", "c"))
    table = verdicts.closing_table(audit.ask_days(subject(images), paths.shortcuts))
    assert table.loc[0, "verdict"] == verdicts.CANNOT
    assert "are of one day" in table.loc[0, "why"]
    unknown = verdicts.closing_table(audit.ask_days(subject(image_table()), paths.shortcuts))
    assert "column group" in unknown.loc[0, "why"]


def test_days_that_the_split_held_out_already_leave_nothing_to_compare(subject, paths):
    images = dated(image_table(per_class=60), 10)
    whole = images.assign(split=images["group"].map(lambda day: SPLITS[int(day[-1]) % 6]))
    asked = subject(whole)
    row = verdicts.closing_table(audit.ask_days(asked, paths.shortcuts)).iloc[0]
    assert row["verdict"] == verdicts.CANNOT
    assert "0% of the test images" in row["why"]
    found = verdicts.closing_table(audit.ask_trivial(asked)[0]).set_index("key").loc["day"]
    assert found["verdict"] == verdicts.CANNOT
    assert "no day of the samples judged" in found["why"]


def test_both_ways_of_halving_learn_from_as_many_images(subject):
    """Also where days are of very different size."""
    images = image_table(per_class=60)
    days = ["a"] * 40 + ["b"] * 12 + ["c"] * 8
    asked = subject(images.assign(group=days * 3))
    halves = retrain._halves(asked.run, asked.table)
    keys = [asked.table["class"], asked.table["split"]]
    counted = [half.groupby(keys).value_counts().sort_index() for half in halves.values()]
    assert counted[0].equals(counted[1])
    by_day = halves["by_day"].groupby(asked.table["group"]).nunique()
    assert (by_day == 1).all()


def test_surroundings_are_learnt_by_the_runs_own_recipe(subject, paths, learning):
    asked = subject(dated(image_table(), 7), without=noise(108) + 5)
    found = audit.ask_surroundings(asked, paths.shortcuts, epochs=None)
    assert judged_as(found) == {"surroundings_trained": verdicts.ALARM}
    ((_, pixels, settings),) = learning
    assert (pixels == asked.without).all()
    assert isinstance(settings, TrainingSettings)
    assert settings.max_epochs == asked.run.config.max_epochs
    assert settings.architecture == asked.run.config.architecture


def test_the_recipe_is_every_setting_of_a_training(subject):
    config = dataclasses.replace(subject(image_table()).run.config, max_epochs=9, channels=(2,))
    settings = retrain._recipe(config, 1)
    for name in TrainingSettings.__dataclass_fields__:
        assert name == "max_epochs" or getattr(settings, name) == getattr(config, name)
    assert settings.max_epochs == 1


def test_samples_of_another_table_are_refused(subject, paths):
    asked = subject(image_table())
    with pytest.raises(ValueError, match="another table of images"):
        audit.subject_of(asked.run, asked.table[1:], asked.arrays, None, paths)


def test_verdicts_are_corrected_for_the_number_of_questions():
    row = {"level": "cell", "why": "", "reference": 0.5, "estimate": 0.6, "low": 0.51, "high": 0.69}
    one = pd.DataFrame([row | {"key": "count", "p": 0.02}])
    assert judged_as(one)["count"] == verdicts.ALARM
    others = pd.DataFrame([row | {"key": "day", "p": 0.9}] * 3)
    assert judged_as(one, others)["count"] == verdicts.NO_SIGN


def test_a_perfect_order_of_few_images_is_no_certainty():
    """Guessing orders five against five images in 1 of 252 cases."""
    perfect = [np.ones(11)]
    assert audit._judge(perfect, 0.5)["p"] == pytest.approx(1 / 252)
    assert audit._judge([np.ones(80)], 0.5)["p"] < 1e-6
    assert audit._judge([np.full(11, 0.5)], 0.5)["p"] == 1


def test_an_alarm_beside_crowded_cells_is_not_withdrawn(subject):
    """A background that goes with the class tells the painted area through it, and is an alarm."""
    images = dated(image_table(per_class=60), 7)
    light = of_class(images, 0, 20, 40).to_numpy(np.uint8)[:, None, None, None]
    without = noise(len(images)) + light
    side = of_class(images, 4, 8, 12) + np.random.default_rng(0).integers(-2, 3, len(images))
    asked = subject(images, light=light, without=without)
    for picture, hole in zip(asked.arrays, side, strict=True):
        picture[:hole, :hole] ^= 1
    assert audit._betrayal(asked) == ""
    assert judged_as(audit.ask_trivial(asked)[0])["surroundings"] == verdicts.ALARM


def test_what_an_interval_leaves_open_cannot_be_told():
    row = {"level": "cell", "why": "", "reference": 0.5, "estimate": 0.6, "low": 0.3, "high": 0.9}
    assert judged_as(pd.DataFrame([row | {"key": "count", "p": 0.3}])) == {"count": verdicts.CANNOT}


def test_the_summary_names_alarms_and_what_to_do():
    row = {"level": "cell", "why": "", "reference": 0.5, "estimate": 0.9, "low": 0.8, "high": 0.95}
    table = verdicts.closing_table(pd.DataFrame([row | {"key": "count", "p": 1e-6}]))
    text = verdicts.summary(table)
    assert "1 of 1 questions ring an alarm" in text
    assert "0.900 (0.800 to 0.950)" in text
    assert "equal densities" in verdicts.readable(table).iloc[0, -1]
