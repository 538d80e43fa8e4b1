"""The page to look into a model: its numbers, its patches, and what a browser makes of it."""

import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import sync_playwright
from sklearn.metrics import confusion_matrix, roc_curve

from hsc_utils import detection, drawing, files, provenance, training
from hsc_utils.files import ROOT
from hsc_utils.study import Study

sys.path.insert(0, str(ROOT / "workflow"))
import explorer

CLASSES = ("LT-HSC", "ST-HSC", "MPP")
IMAGES = {"train": 4, "validation": 2, "test": 4}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of ready cells, simulated, each of another brightness, with a run of one epoch."""
    folder, rng = tmp_path_factory.mktemp("explored"), np.random.default_rng(0)
    bright = iter(rng.permutation(np.linspace(20, 230, 90)))
    for subset, images in IMAGES.items():
        for name in CLASSES:
            for cell in range(3 * images):
                picture = np.full((24, 24, 3), next(bright))
                path = folder / f"raw/{subset}/{name}/{subset}{cell // 3}__{cell}.png"
                files.write_rgb(path, (picture + rng.normal(0, 1, picture.shape)).astype(np.uint8))
    study = Study(folder / "study")
    cells = detection.import_patches(folder / "raw", study.cells, 24)
    files.write_csv(study.cells / "cells.csv", cells.assign(simulated=True))
    recipe = {"architecture": "resnet18", "weights": "none", "input_size": 32, "batch_size": 16}
    recipe |= {"max_epochs": 1, "patience": 1, "learning_rate": 1e-3, "precision": "float32"}
    patches, run = detection.read_patches(study.cells, cells), study.run("cell", "resnet18", 0)
    training.train(cells, patches, run.directory, training.TrainingSettings(**recipe))
    return study


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """The folder in which the page of that run was written."""
    folder = tmp_path_factory.mktemp("book")
    page = explorer.write_explorer(study, study.run("cell", "resnet18", 0), folder)
    explorer.copy_script(folder)
    assert page == folder / "explore.md"
    return folder


def numbers_of(folder):
    page = (folder / "explore.md").read_text()
    return json.loads(re.search(r'id="explored-numbers">(.*?)</script>', page)[1])


def predictions(seed, count, classes=CLASSES):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.4] * len(classes), count).astype(np.float32)
    truth = [*classes, *rng.choice(classes, count - len(classes))]
    columns = dict(zip([f"p_{name}" for name in classes], shares.T, strict=True))
    return pd.DataFrame({"id": [f"c{k}" for k in range(count)], "class": truth, **columns})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(3, 60))
def test_operating_points_agree_with_scikit_learn(seed, count):
    test = predictions(seed, count)
    points = explorer.operating_points(test, CLASSES)
    assert len(points) == len(CLASSES) * len(explorer.THRESHOLDS)
    for row in points.iloc[::7].to_dict("records"):
        name, probability = row["class"], test[f"p_{row['class']}"].to_numpy(float)
        true, called = test["class"] == name, probability >= row["threshold"]
        (tn, fp), (fn, tp) = confusion_matrix(true, called, labels=[False, True])
        assert row["sensitivity"] == pytest.approx(tp / (tp + fn))
        assert row["specificity"] == pytest.approx(tn / (tn + fp))
        assert sum(row[f"called {other}"] for other in CLASSES) == tp + fp
        assert row[f"called {name}"] == tp
        fpr, tpr, _ = roc_curve(true, probability, drop_intermediate=False)
        here = (1 - row["specificity"], row["sensitivity"])
        assert (
            np.isclose(fpr, here[0]).any()
            and np.isclose(tpr[np.isclose(fpr, here[0])], here[1]).any()
        )


def test_thresholds_run_from_all_to_nearly_none():
    assert (np.diff(explorer.THRESHOLDS) > 0).all()
    assert explorer.THRESHOLDS[[0, -1]].tolist() == [0, 1]
    points = explorer.operating_points(predictions(0, 30), CLASSES).groupby("class")
    assert (points["sensitivity"].first() == 1).all() and (points["specificity"].first() == 0).all()


def test_a_class_without_a_cell_has_no_sensitivity():
    test = predictions(0, 30)
    points = explorer.operating_points(test[test["class"] != "MPP"], CLASSES).set_index("class")
    assert points.loc["MPP", "sensitivity"].isna().all()
    assert points.loc[["LT-HSC", "ST-HSC"], ["sensitivity", "specificity"]].notna().all(axis=None)


@pytest.mark.parametrize("count", [3, 20, 45])
def test_each_point_has_its_own_patch(count):
    patches = np.random.default_rng(1).integers(0, 256, (count, 48, 48, 3), np.uint8)
    placed, sheet = explorer.place(predictions(1, count), CLASSES), explorer.contact_sheet(patches)
    alike = drawing.stretched(patches.reshape(-1, 48, 3)).reshape(patches.shape)
    for patch, row in zip(alike, placed.to_dict("records"), strict=True):
        left, top = row["left"] // 3, row["top"] // 3
        np.testing.assert_array_equal(sheet[top : top + 48, left : left + 48], patch)


def test_what_a_point_says():
    test = pd.DataFrame({"id": ["a", "b"], "class": ["MPP", "ST-HSC"]})
    test[["p_LT-HSC", "p_ST-HSC", "p_MPP"]] = [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]
    placed = explorer.place(test, CLASSES)
    assert placed["judged"].tolist() == ["right", "wrong"]
    assert placed["said"][1].startswith("b\nis ST-HSC, said LT-HSC, wrong\np(LT-HSC) = 0.600")


def test_many_cells_are_drawn_by_class_and_the_same_each_time():
    test = predictions(2, 3000, ("A", "B")).assign(**{"class": ["A"] * 30 + ["B"] * 2970})
    drawn = explorer._draw(test, 300)
    assert drawn["class"].value_counts().to_dict() == {"A": 3, "B": 297}
    pd.testing.assert_frame_equal(drawn, explorer._draw(test, 300))
    assert drawn["id"].is_unique and drawn["id"].isin(test["id"]).all()
    assert len(explorer._draw(test.head(50), 300)) == 50


def test_the_page_shows_the_cells_of_the_test_subset(study, written):
    run, numbers = study.run("cell", "resnet18", 0), numbers_of(written)
    test = run.predictions.query("split == 'test'")
    assert [cell["said"].splitlines()[0] for cell in numbers["cells"]] == test["id"].tolist()
    cells = pd.read_csv(study.cells / "cells.csv").set_index("cell_id")
    patches = np.load(study.cells / "patches.npy")[cells.loc[test["id"], "row"]]
    sheet = np.asarray(Image.open(written / "_static" / "explore_cells.jpg"))
    shown = [
        sheet[cell["top"] // 3 :, cell["left"] // 3 :][8:40, 8:40].mean()
        for cell in numbers["cells"]
    ]
    assert np.corrcoef(shown, patches.mean(axis=(1, 2, 3)))[0, 1] > 0.995  # cell by cell
    name, at = "MPP", explorer.THRESHOLDS.tolist().index(0.5)
    point = numbers["classes"][name]["points"][at]
    called = test[test["p_MPP"] >= 0.5]["class"]
    assert point["called"] == [int((called == other).sum()) for other in CLASSES]


def test_the_page_says_that_data_are_simulated_and_loads_nothing_from_outside(written):
    page = (written / "explore.md").read_text()
    assert f":::{{warning}}\n{provenance.SIMULATED_NOTE}" in page
    assert json.dumps(numbers_of(written)["plots"]).count(provenance.SIMULATED_NOTE) == 3
    for alt in re.findall(r":alt: (.*)", page):
        assert provenance.SIMULATED_NOTE in alt and len(alt) > 100
    assert not re.search(r"https?://", re.sub(r'xmlns="[^"]*"', "", page))
    assert not [*written.rglob("*.js")]  # the book would load it on every page
    assert len(page) < 1.2e6


def test_nothing_is_written_where_there_is_nothing_to_show(study, tmp_path, monkeypatch):
    run = study.run("cell", "resnet18", 0)
    untrained, images = study.run("cell", "resnet50", 0), study.run("image", "resnet18", 0)
    assert explorer.write_explorer(study, untrained, tmp_path) is None
    assert explorer.write_explorer(study, images, tmp_path) is None
    scores = {"validation": run.scores["validation"]}
    monkeypatch.setattr(type(run), "scores", property(lambda _: scores))
    assert explorer.write_explorer(study, run, tmp_path) is None
    assert not [*tmp_path.iterdir()]


def test_cells_that_are_gone_are_an_error(study, tmp_path, monkeypatch):
    cells = pd.read_csv(study.cells / "cells.csv", keep_default_na=False)
    monkeypatch.setattr(explorer.manifest, "read_cells", lambda _: cells.iloc[1:])
    with pytest.raises(ValueError, match=r"cells\.csv no longer holds.*notebook 04"):
        explorer.write_explorer(study, study.run("cell", "resnet18", 0), tmp_path)
    assert not [*tmp_path.iterdir()]


def as_html(folder, script):
    """Lay the page out as Sphinx does, as far as its script cares; return its address."""
    raw = re.search(r"````\{raw\} html\n(.*)````", (folder / "explore.md").read_text(), re.DOTALL)[
        1
    ]
    figures = "".join(
        f'<figure id="fig-explore-{name}"><a><img src="explore_{name}.png" alt=""></a></figure>'
        for name in ("roc", "features")
    )
    raw = raw if script else raw.replace("bokeh.min", "missing")
    page = folder / f"page_{script}.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{figures}{raw}")
    return page.as_uri()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on this machine")
def test_in_a_browser(written):
    numbers, errors = numbers_of(written), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(as_html(written, True))
        page.wait_for_selector("figure img", state="hidden")  # drawn
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.select_option("#explored-class", "ST-HSC")
        page.focus("#explored-threshold")
        page.keyboard.press("ArrowRight")
        at = explorer.THRESHOLDS.tolist().index(0.51)
        point = numbers["classes"]["ST-HSC"]["points"][at]
        assert page.text_content("#explored-said").startswith(
            "Called ST-HSC from a probability of 0.51"
        )
        assert f"{point['sensitivity']:.3f}" in page.text_content("#explored-said")
        called = page.locator("[id^=explored-called-]").all_text_contents()
        assert called == [str(count) for count in point["called"]]
        page.select_option("#explored-cell", "7")
        assert page.text_content("#explored-card") == numbers["cells"][7]["said"]
        page.uncheck("input[value=MPP]")
        hidden = "Bokeh.documents.map(d => d.get_model_by_name('right MPP')).find(Boolean).visible"
        assert page.evaluate(hidden) is False
        assert not errors
        page.goto(as_html(written, False))  # Bokeh does not arrive: the pictures stay
        assert page.locator("figure img").first.is_visible()
        assert not page.locator(".explored").first.is_visible()
        browser.close()
    assert not errors
