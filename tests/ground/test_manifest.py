"""Tables are checked when read; the split is stratified, stable, and keeps groups together."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsc_utils import manifest, paper
from hsc_utils.manifest import SUBSETS

FRACTIONS = (0.6, 0.2, 0.2)


def image_table(counts, **columns):
    names = [name for name, count in counts.items() for _ in range(count)]
    within = [k for count in counts.values() for k in range(count)]
    ids = [f"{name}_{k:03d}" for name, k in zip(names, within, strict=True)]
    return pd.DataFrame({"image_id": ids, "class": names}).assign(**columns)


def split_of(images, **kwargs):
    return manifest.split_images(images, **kwargs).set_index("image_id")["split"]


counts = st.dictionaries(st.sampled_from(["LT", "ST", "MPP", "B"]), st.integers(3, 60), min_size=1)


@given(counts, st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_proportions_within_rounding(counts, seed):
    split = manifest.split_images(image_table(counts), seed=seed)
    table = pd.crosstab(split["class"], split["split"]).reindex(columns=SUBSETS)
    for name, count in counts.items():
        assert table.loc[name].sum() == count
        assert (abs(table.loc[name] - np.multiply(FRACTIONS, count)) < 1).all()
        assert (table.loc[name] > 0).all()


@given(counts, st.integers(0, 99), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_of_rows_and_other_classes_do_not_matter(counts, seed, random):
    images = image_table(counts)
    split = split_of(images, seed=seed)
    shuffled = images.iloc[random.sample(range(len(images)), len(images))]
    pd.testing.assert_series_equal(split_of(shuffled, seed=seed).sort_index(), split.sort_index())
    grown = image_table({**counts, "new": 7, next(iter(counts)): 80})
    others = images.loc[images["class"] != next(iter(counts)), "image_id"]
    pd.testing.assert_series_equal(split_of(grown, seed=seed)[others], split[others])


def test_same_on_every_platform():
    """Fixed for good: a change here silently changes every published split."""
    split = split_of(image_table({"LT-HSC": 10}), seed=0)
    assert "".join(subset[:2] for subset in split) == "trtrtetrvavatetrtrtr"


def test_another_seed_gives_another_split():
    images = image_table({"LT": 30, "ST": 30})
    assert (split_of(images, seed=0) != split_of(images, seed=1)).any()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), min_size=90, max_size=150),
    st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_groups_stay_whole(rows, seed):
    images = pd.DataFrame(rows, columns=["class", "group"]).astype(str)
    images["image_id"] = [f"i{k}" for k in range(len(images))]
    try:
        split = manifest.split_images(images, group="group", seed=seed)
    except ValueError as error:
        assert "independent set" in str(error) or "has no image in" in str(error)
        return
    assert not split[["group", "split"]].drop_duplicates()["group"].duplicated().any()


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_as_balanced_as_they_allow(seed):
    """Against the best of all divisions."""
    rng = np.random.default_rng(seed)
    images = pd.DataFrame({"class": rng.integers(0, 3, 90), "group": rng.integers(0, 7, 90)})
    images = images.astype(str).assign(image_id=[f"i{k}" for k in range(90)])
    sizes = pd.crosstab(images["group"], images["class"]).to_numpy()
    wanted = np.outer(FRACTIONS, sizes.sum(axis=0))

    def deviation(placed):
        got = np.array([sizes[np.array(placed) == k].sum(axis=0) for k in range(3)])
        return (((got - wanted) / sizes.sum(axis=0)) ** 2).sum() + (got == 0).sum()

    best = min(map(deviation, itertools.product(range(3), repeat=len(sizes))))
    split = manifest.split_images(images, group="group", seed=seed)
    placed = split.groupby("group")["split"].first().map(SUBSETS.index).to_numpy()
    assert deviation(placed) <= 1.2 * best + 0.005


def test_days_that_hold_all_classes():
    images = image_table({"LT": 30, "ST": 36, "MPP": 30})
    images["group"] = [f"day {k % 6}" for k in range(96)]
    split = manifest.split_images(images, group="group")
    days = split.groupby("split")["group"].nunique()
    assert days.to_dict() == {"train": 4, "validation": 1, "test": 1}


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_near_duplicates_stay_together(seed):
    images = image_table({"LT": 40, "ST": 20}, near_duplicate_of="")
    pairs = [("LT_000", "LT_007"), ("LT_000", "LT_031"), ("ST_002", "ST_003"), ("LT_004", "ST_009")]
    for first, other in pairs:
        images.loc[images["image_id"] == other, "near_duplicate_of"] = first
    split = split_of(images, seed=seed)
    assert all(split[first] == split[other] for first, other in pairs)
    table = pd.crosstab(split.index.str[:2], split.to_numpy()).reindex(columns=SUBSETS)
    np.testing.assert_array_equal(table, [[24, 8, 8], [12, 4, 4]])


def test_near_duplicates_join_groups():
    images = image_table({"LT": 30}, near_duplicate_of="")
    images["group"] = [f"day {k // 3}" for k in range(30)]
    images.loc[29, "near_duplicate_of"] = "LT_000"
    split = split_of(images, group="group")
    assert len(set(split.iloc[[0, 1, 2, 27, 28, 29]])) == 1


def test_small_class_stops_or_trains():
    images = image_table({"neutrophil": 20, "basophil": 1})
    with pytest.raises(ValueError, match=r"Class basophil has 1 image.*small_classes='train'"):
        manifest.split_images(images)
    split = split_of(images, small_classes="train")
    assert split["basophil_000"] == "train"
    assert split[split.index != "basophil_000"].value_counts()["test"] == 4


def test_class_in_too_few_groups_is_named():
    images = image_table({"LT": 30, "ST": 30})
    images["group"] = [*(f"a{k % 5}" for k in range(30)), *(f"b{k % 2}" for k in range(30))]
    with pytest.raises(ValueError, match=r"Class ST has 30 .* in 2 independent"):
        manifest.split_images(images, group="group")


def test_without_validation():
    split = split_of(image_table({"LT": 10, "ST": 2}), fractions=(0.7, 0, 0.3))
    assert split.value_counts().to_dict() == {"train": 8, "test": 4}


def test_look_alikes_fill_no_subset_of_share_zero():
    images = image_table({"LT": 12, "ST": 12}, near_duplicate_of="")
    images.loc[images["image_id"] == "LT_003", "near_duplicate_of"] = "LT_001"
    split = split_of(images, fractions=(0.7, 0, 0.3))
    assert set(split) == {"train", "test"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fractions": (0.6, 0.2, 0.3)}, "sum to 1"),
        ({"fractions": (0.5, 0.5)}, "three shares"),
        ({"group": "day"}, "lacks the columns"),
        ({"group": "empty"}, "30 images have no empty"),
        ({"small_classes": "drop"}, "'error' or 'train'"),
    ],
)
def test_bad_requests(change, match):
    with pytest.raises(ValueError, match=match):
        manifest.split_images(image_table({"LT": 30}, empty=""), **change)


def test_repeated_image_id():
    images = pd.concat([image_table({"LT": 5})] * 2)
    with pytest.raises(ValueError, match="more than once"):
        manifest.split_images(images)


@given(counts, st.integers(3, 6), st.integers(0, 99), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_folds_hold_every_image_once_in_proportion_whatever_the_order(counts, folds, seed, random):
    images = image_table({**counts, "common": folds + 1})
    fold = manifest.fold_images(images, folds, seed)
    assert set(fold) == set(range(folds)) and fold.index.equals(images.index)
    by_class = pd.crosstab(images["class"], fold)
    assert (by_class.max(axis=1) - by_class.min(axis=1)).max() <= 1
    shuffled = images.iloc[random.sample(range(len(images)), len(images))]
    again = manifest.fold_images(shuffled, folds, seed)
    pd.testing.assert_series_equal(again, fold[shuffled.index])


@given(st.integers(0, 2**32 - 1), st.integers(3, 6))
@settings(max_examples=15, deadline=None)
def test_groups_and_look_alikes_share_a_fold(seed, folds):
    rng = np.random.default_rng(seed)
    images = pd.DataFrame({"class": rng.integers(0, 3, 120), "group": rng.integers(0, 12, 120)})
    images = images.astype(str).assign(image_id=[f"i{k}" for k in range(120)])
    images["near_duplicate_of"] = ["", "i0", *[""] * 118]
    for group in (None, "group"):
        fold = manifest.fold_images(images, folds, seed, group)
        assert fold[0] == fold[1] and set(fold) == set(range(folds))
        if group:
            assert fold.groupby(images["group"]).nunique().max() == 1


def test_a_class_of_one_image_is_never_judged():
    images = image_table({"neutrophil": 20, "eosinophil": 2, "basophil": 1, "twin": 2})
    images["near_duplicate_of"] = ["", "basophil_000", *[""] * 22, "twin_000"]
    fold = manifest.fold_images(images, 5).set_axis(images["image_id"])
    never = fold.index[fold < 0]
    assert sorted(never) == ["basophil_000", "neutrophil_001", "twin_000", "twin_001"]
    assert fold["eosinophil_000"] != fold["eosinophil_001"]


@pytest.mark.parametrize(
    ("folds", "match"),
    [
        (2, "folds is 2, but 0 .* or a whole number from 3"),
        (True, "folds is True"),
        (4.0, r"folds is 4\.0"),
        (7, "folds: 7 are wanted, but 12 independent sets .* fill 0 of them. Ask for fewer"),
    ],
)
def test_folds_that_cannot_be_filled_are_refused(folds, match):
    with pytest.raises(ValueError, match=match):
        manifest.fold_images(image_table({"LT": 6, "ST": 6}), folds)


def test_days_stay_together_where_they_allow_it():
    images = image_table({"LT": 12, "ST": 12})
    days = [f"day {k % 6}" for k in range(24)]
    assert manifest.fold_group(images.assign(group=days), 5) == (
        "group",
        "by whole days (or groups)",
    )
    for groups, folds, why in (
        (["", *days[1:]], 5, "not every image names its day"),
        (days, 7, "6 days .* cannot fill them"),
        (["a"] * 12 + days[12:], 3, "all images of LT are of one day"),
    ):
        group, said = manifest.fold_group(images.assign(group=groups), folds)
        assert group is None
        assert re.search(f"image by image, since .*{why}", said)
    assert manifest.fold_group(images, 3)[0] is None


def test_counts_beside_the_papers():
    images = image_table({"LT-HSC": 5, "ST-HSC": 7})
    table = manifest.compare_counts(images)
    assert table.loc["LT-HSC"].to_list() == [5, paper.counts().loc["LT-HSC", "images"]]
    assert table.loc["MPP", "images"] == 0
    assert table.loc["total"].to_list() == [12, 3539]
    mixed = manifest.compare_counts(image_table({"LT-HSC": 5, "a": 2}))
    assert mixed["images, the paper's"].isna().to_list() == [False] * 3 + [True, False]
    others = manifest.compare_counts(image_table({"a": 2}))
    assert list(others) == ["images"]
    assert others.loc["total", "images"] == 2


@pytest.fixture
def prepared(tmp_path):
    images = pd.DataFrame("", range(4), [*manifest.IMAGE_COLUMNS])
    images[["slices", "height", "width", "bit_depth"]] = [3, 8, 8, 12]
    images["simulated"] = True
    images["image_id"], images["class"] = ["007", "NA", "b", "c"], ["NA", "NA", "1", "1"]
    images["split"] = ["train", "test", "validation", "train"]
    images["path"] = "images/" + images["image_id"] + ".png"
    folder = tmp_path / "prepared"
    (folder / "images").mkdir(parents=True)
    for path in images["path"]:
        (folder / path).touch()
    images.to_csv(folder / "images.csv", index=False)
    return folder


def cell_table(prepared):
    images = manifest.read_images(prepared).iloc[[0, 0, 1, 2]].reset_index(drop=True)
    cells = images[["image_id", "class", "split", "group", "simulated"]]
    ids = cells["image_id"] + ["__0000", "__0001", "__0000", "__0000"]
    return cells.assign(cell_id=ids, y=1.5, x=2.0, sigma=3.0, row=range(4), touches=False)


def write_cells(prepared, cells):
    folder = prepared.parent / "cells"
    folder.mkdir(exist_ok=True)
    cells.to_csv(folder / "cells.csv", index=False)
    return folder


def test_names_stay_text(prepared):
    images = manifest.read_images(prepared)
    assert images["image_id"].to_list() == ["007", "NA", "b", "c"]
    assert images["class"].to_list() == ["NA", "NA", "1", "1"]
    assert images["group"].to_list() == [""] * 4
    assert images["pixel_size_um"].isna().all()
    assert images["simulated"].dtype == bool


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("split", "val", "split 'val'.*train, validation, test"),
        ("image_id", "same", "image_id same occurs more than once"),
        ("path", "images/gone.png", "4 missing images, first images/gone.png"),
    ],
)
def test_images_are_checked(prepared, column, value, match):
    images = manifest.read_images(prepared).assign(**{column: value})
    images.to_csv(prepared / "images.csv", index=False)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        manifest.read_images(prepared)


def test_missing_table_or_column(prepared):
    with pytest.raises(FileNotFoundError, match=r"cells\.csv is missing.*notebook 02"):
        manifest.read_cells(prepared.parent / "cells")
    write_cells(prepared, cell_table(prepared).drop(columns=["row", "touches"]))
    with pytest.raises(ValueError, match=r"lacks the columns row, touches"):
        manifest.read_cells(prepared.parent / "cells")


def test_cells_are_checked(prepared):
    cells = cell_table(prepared)
    pd.testing.assert_frame_equal(
        manifest.read_cells(write_cells(prepared, cells)), cells, check_like=True
    )
    for column, row, value, match in [
        ("split", 1, "test", "image 007 have more than one split"),
        ("class", 1, "1", "image 007 have more than one class"),
        ("split", 2, "train", r"image NA has another split or class .*images\.csv"),
        ("group", 3, "2024-01-02", r"image b has another .* group .*images\.csv"),
        ("image_id", 3, "unknown", "image unknown has another split.*not in it"),
        ("cell_id", 1, "007__0000", "cell_id 007__0000 occurs more than once"),
        ("row", 1, 0, "row 0 occurs more than once"),
    ]:
        changed = cells.copy()
        changed.loc[row, column] = value
        with pytest.raises(ValueError, match=match):
            manifest.read_cells(write_cells(prepared, changed))


def test_slices_are_named_where_all_images_agree(prepared, tmp_path):
    """Of ready cells there are no images, and no names."""
    assert manifest.slice_names(tmp_path / "nowhere") == ("Slice 0", "Slice 1", "Slice 2")
    table = manifest.read_images(prepared)
    table["channel_names"] = ["DIC;A", "DIC;B;C", "DIC;A;C", ""]
    table.to_csv(prepared / "images.csv", index=False)
    assert manifest.slice_names(prepared) == ("Slice 0, DIC", "Slice 1", "Slice 2, C")
