"""The picture on the first page: its cells are chosen by the rule that it states."""

import cv2
import draw_overview
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from hsc_utils import drawing, training
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.study import RunConfig, Study

CLASSES = ("LT-HSC", "ST-HSC", "MPP", "NA")
CONFIG = RunConfig(
    architecture="resnet18",
    weights="none",
    input_size=64,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    level="cell",
    class_names=CLASSES,
    weights_used="none",
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    samples_sha256="",
    code_sha256="",
)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A study of one image per class, with four cells that were explained, all predicted right."""
    made, rng = Study(tmp_path / "study"), np.random.default_rng(0)
    for folder in (made.prepared, made.cells, made.grad_cam):
        folder.mkdir(parents=True)
    images, cells, patches = [], [], []
    for name in CLASSES:
        pixels = rng.normal(100, 5, (200, 200, 3))
        for k, (y, x) in enumerate([(50, 50), (50, 150), (150, 50), (150, 150)]):
            pixels[y - 12 : y + 12, x - 12 : x + 12] += rng.normal(60, 30, (24, 24, 3))
            cells.append((f"{name}__{k}", name, y, x, 8.0, len(cells)))
        pixels = pixels.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(made.prepared / f"{name}.png"), pixels)
        images.append((name, f"{name}.png", name, f"{name}/a.oir"))
        patches += [
            pixels[y - 32 : y + 32, x - 32 : x + 32] for _, n, y, x, *_ in cells if n == name
        ]
    kept = {"split": "test", "group": "", "simulated": False}
    table = pd.DataFrame(images, columns=["image_id", "path", "class", "source"]).assign(**kept)
    table[["sha256", "acquired_at", "objective", "near_duplicate_of"]] = ""
    table[["slices", "height", "width", "bit_depth"]] = 3, 200, 200, 12
    table = table.assign(pixel_size_um=0.5, channel_names="DIC;BF;AF", fourth_slice_contrast=np.nan)
    table.assign(mean_r=1.0, mean_g=1.0, mean_b=1.0).to_csv(
        made.prepared / "images.csv", index=False
    )
    columns = ["cell_id", "class", "y", "x", "sigma", "row"]
    table = pd.DataFrame(cells, columns=columns).assign(touches=False, **kept)
    table["image_id"] = table["class"]
    table.to_csv(made.cells / "cells.csv", index=False)
    np.save(made.cells / "patches.npy", np.stack(patches))
    explained = table[["cell_id"]].assign(predicted=table["class"], stride=16, share=0.3, area=0.2)
    explained["excess"] = np.tile([0.1, 0.2, 0.3, 0.9], len(CLASSES))
    explained.to_csv(made.grad_cam / "cam.csv", index=False)
    means = pd.DataFrame({"stride": [32, 16, 16], "number": ["share", "share", "area"]})
    means[["class", "level", "samples", "images"]] = "all classes", "cell", 16, 4
    means["mean"], means["low"], means["high"] = [0.1, 0.34, 0.18], 0.304, 0.376
    means.to_csv(made.grad_cam / "means.csv", index=False)
    torch.manual_seed(0)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=len(CLASSES)).eval()
    monkeypatch.setattr(training, "load_run", lambda _: (network, CONFIG))
    return made


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_a_real_study_states_its_rule_and_numbers_and_says_nothing_of_a_simulation(study):
    said = texts(draw_overview.draw(study, "resnet18", 0)).replace("\n", " ")
    assert SIMULATED_NOTE not in said and "Where ResNet-18 looks" in said
    assert (
        "sharper than half of their class, from images of 3 slices, touching no other cell" in said
    )
    assert "34.0 % (95 % interval 30.4 to 37.6 %)" in said and "covers 18.0 % of the patch" in said
    assert "Not shown: NA" in said and "In the 16 test cells measured, of 4 images" in said
    assert all(name in said for name in ("DIC", "BF", "AF", "20 µm", *CLASSES[:3]))


def test_the_picture_is_told_to_those_who_cannot_see_it(study, tmp_path):
    figure = draw_overview.draw(study, "resnet18", 0)
    draw_overview.write(figure, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as picture:
        assert picture.info["Description"] == figure.alt and picture.width == 1600
    assert "single cells of LT-HSC, ST-HSC, MPP; and" in figure.alt
    assert "where ResNet-18 looks" in figure.alt and "34.0 % (95 % interval" in figure.alt
    assert (tmp_path / "overview.png").stat().st_size < 400_000


def test_a_simulated_study_says_so_and_takes_cells_that_are_in_focus(study):
    path = study.cells / "cells.csv"
    cells = pd.read_csv(path, keep_default_na=False).assign(simulated=True)
    cells.to_csv(path, index=False)
    truth = cells.assign(source=cells["class"] + "/a.oir", in_focus=cells["cell_id"] == "MPP__3")
    study.truth.mkdir()
    truth[["source", "y", "x", "in_focus"]].to_csv(study.truth / "cells.csv", index=False)
    said = texts(draw_overview.draw(study, "resnet18", 0)).replace("\n", " ")
    assert SIMULATED_NOTE in said and "predicted correctly, in focus, from" in said
    assert "Not shown: LT-HSC, ST-HSC, NA" in said


def test_cells_that_came_ready_lie_in_no_image_and_are_shown_alone(study):
    path = study.cells / "cells.csv"
    cells = pd.read_csv(path, keep_default_na=False).assign(y=np.nan, x=np.nan, sigma=np.nan)
    cells.to_csv(path, index=False)
    (study.prepared / "images.csv").unlink()
    figure = draw_overview.draw(study, "resnet18", 0)
    said = texts(figure).replace("\n", " ")
    assert "Single cells" in said and "RGB image" not in said and " slices" not in said
    assert figure.alt.startswith("Single cells of")


def test_without_results_of_notebook_06_it_says_so(study):
    (study.grad_cam / "status.json").write_text('{"failed": "no memory"}')
    with pytest.raises(FileNotFoundError, match=r"grad_cam holds no results .*\(no memory\)"):
        draw_overview.draw(study, "resnet18", 0)
    (study.grad_cam / "status.json").unlink()
    (study.grad_cam / "means.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(not run yet\).* run notebook 06 first"):
        draw_overview.draw(study, "resnet18", 0)


def test_results_of_other_cells_are_refused(study):
    path = study.grad_cam / "cam.csv"
    path.write_text(path.read_text().replace("MPP__3", "MPP__9"))
    with pytest.raises(ValueError, match="of other cells than the study's"):
        draw_overview.draw(study, "resnet18", 0)


def test_typical_cells_are_nearest_to_the_median_of_all_and_not_the_most_striking():
    explained = pd.DataFrame({"class": list("aaaaab"), "excess": [0.9, 0.1, 0.2, 0.3, 0.8, np.nan]})
    everyone = np.ones(6, bool)
    assert draw_overview.typical(explained, {"any": everyone}, ["b", "a"]) == [3, 2, 1]
    # the median is that of the class, whoever meets the rule
    assert draw_overview.typical(explained, {"odd": np.arange(6) % 4 == 0}, ["a"]) == [4, 0]
    with pytest.raises(ValueError, match=r"Of 6 cells .* none is blue"):
        draw_overview.typical(explained, {"blue": ~everyone}, ["a"])


def test_a_cell_is_in_focus_if_the_true_cell_that_it_is_matched_to_is():
    explained = pd.DataFrame({"image_id": list("iiij"), "y": [0, 10, 30, 0], "x": 0.0})
    images = pd.DataFrame({"source": ["i.oir", "j.oir"]}, index=["i", "j"])
    truth = pd.DataFrame(
        {"source": "i.oir", "y": [2, 13, 40], "x": 0, "in_focus": [True, False, True]}
    )
    found = draw_overview.in_focus(explained, images, truth)
    assert found.tolist() == [True, False, False, False]


def test_cells_touch_if_another_or_the_rim_is_within_two_pixels():
    labels = np.zeros((4, 20, 20), int)
    labels[:, 5:12, 5:12] = 4
    labels[1, 5:12, 13:] = 7
    labels[2, 5:12, 15:] = 7
    labels[3, 2:12, 5:12] = 4
    assert draw_overview.touching(labels, labels == 4).tolist() == [False, True, False, True]


@given(st.floats(0.01, 10), st.integers(20, 4096))
def test_the_scale_bar_is_round_and_as_long_as_it_says(pixel_size, width):
    axes = Figure().subplots()
    draw_overview.draw_scale_bar(axes, (100, width, 3), pixel_size)
    (bar,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    length = float(axes.texts[0].get_text().removesuffix(" µm"))
    assert bar.get_width() * pixel_size == pytest.approx(length, rel=1e-3)
    assert width / 8 < bar.get_width() <= width / 3 * 1.0001
    assert f"{length:e}"[0] in "125" and float(f"{length:e}".split("e")[0]) in (1, 2, 5)


def test_small_coloured_words_keep_their_colour(tmp_path):
    figure = drawing.Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.imshow(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    axes.set_title("MPP", color="#009E73", fontsize=10, weight="bold")
    draw_overview.write(figure, tmp_path / "made" / "overview.png")
    pixels = np.asarray(Image.open(tmp_path / "made" / "overview.png").convert("RGB")).astype(int)
    assert (np.abs(pixels[:100] - (0, 0x9E, 0x73)).max(axis=2) < 24).any()
