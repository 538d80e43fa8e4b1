import numpy as np
import pytest

from hsc_utils import detection, new_images, preparation, simulation, training
from hsc_utils.study import Study

RECIPE = {"architecture": "resnet18", "weights": "none", "batch_size": 16, "max_epochs": 2}
RECIPE |= {"patience": 2, "learning_rate": 1e-3, "precision": "float32"}
CELLS = detection.DetectionSettings(min_sigma=8, max_sigma=11.5, threshold=0.3)


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
    """A small simulated study with a run of cells and one of images, and a day never seen."""
    paths = Study(tmp_path_factory.mktemp("study"))
    counts = {"LT-HSC": 6, "ST-HSC": 5, "MPP": 6}
    simulation.write_demo(paths.raw, paths.truth, counts, size=320, days=3, workers=1)
    simulation.write_new_day(paths.new_day / "raw", paths.new_day / "truth", size=320, workers=1)
    images = preparation.prepare_images(paths.raw, paths.prepared, dataset="demo", workers=1)
    cells = detection.extract_cells(paths.prepared, paths.cells, CELLS, 48)
    arrays = training.image_arrays(images, paths.prepared, paths.cache, 32)
    patches = detection.read_patches(paths.cells, cells)
    for level, table, pixels in (("image", images, arrays), ("cell", cells, patches)):
        settings = training.TrainingSettings(**RECIPE, input_size=32)
        run = paths.run(level, "resnet18", 0)
        training.train(table, pixels, run.directory, settings)
        new_images.write_passport(run, table, np.asarray(pixels), paths)
    return paths


@pytest.fixture(scope="session")
def runs(paths):
    return [paths.run(level, "resnet18", 0).directory for level in ("cell", "image")]


@pytest.fixture(scope="session")
def predicted(paths, runs):
    """The folder in which the day never seen was predicted."""
    target = paths.new_images / "new_day"
    new_images.predict_images(runs, paths.new_day / "raw", target, workers=2)
    return target


@pytest.fixture
def ready_study(tmp_path):
    """Return a function that trains a run on a folder of cells that came cut out."""

    def train(folder):
        paths = Study(tmp_path / "ready")
        cells = detection.import_patches(folder, paths.cells, 16)
        patches = detection.read_patches(paths.cells, cells)
        run = paths.run("cell", "resnet18", 0)
        settings = training.TrainingSettings(**RECIPE, input_size=32)
        training.train(cells, patches, run.directory, settings)
        new_images.write_passport(run, cells, patches, paths)
        return run

    return train
