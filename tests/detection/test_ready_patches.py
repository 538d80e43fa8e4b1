"""Ready images of single cells come in with their splits, and nothing leaks."""

import json
import os
from pathlib import Path

import numpy as np
import papermill
import pytest

from hsc_utils import files, manifest, provenance
from hsc_utils.detection import import_patches


def write_patch(path, seed, shape=(30, 30)):
    files.write_rgb(path, np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8))


@pytest.fixture
def released(tmp_path):
    """Two classes, ten images of three cells each, in folders of their subsets."""
    subsets = ["Training"] * 6 + ["val"] * 2 + ["Test"] * 2
    for c, name in enumerate(("LT_HSC", "MPP")):
        for k, subset in enumerate(subsets):
            for cell in range(3):
                path = tmp_path / f"png/{subset}/{name}/field {k}__{cell:04d}.png"
                write_patch(path, 1000 * c + 10 * k + cell)
    return tmp_path / "png"


def test_of_any_size_without_splits(tmp_path, capsys):
    for c, name in enumerate("AB"):
        for number in range(10):
            path = tmp_path / f"raw/{name}/{number}.png"
            write_patch(path, 100 * c + number, (30 + number, 40))
    table = import_patches(tmp_path / "raw", tmp_path / "cells", side=24)
    assert table.groupby("class")["split"].value_counts().loc["A"].to_dict() == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    assert np.load(tmp_path / "cells/patches.npy").shape == (20, 24, 24, 3)
    assert not table["simulated"].any()
    assert len(manifest.read_cells(tmp_path / "cells")) == 20
    written = json.loads((tmp_path / "cells/provenance.json").read_text())
    assert written["cells"] == 20
    assert "ready cells in" in provenance.dataset_name(tmp_path / "prepared", tmp_path / "cells")
    said = "20 patches count as images of their own"
    assert said in capsys.readouterr().out
    assert said in written["fallbacks"][0]


def test_given_splits_and_images_are_kept(released, tmp_path):
    cells = import_patches(released, tmp_path / "cells", side=30)
    assert cells["split"].value_counts().to_dict() == {"train": 36, "validation": 12, "test": 12}
    assert set(cells["class"]) == {"LT-HSC", "MPP"}
    assert cells["image_id"].nunique() == 20
    one = cells.iloc[7]
    stored = np.load(tmp_path / "cells/patches.npy")[one["row"]]
    subset, name, file = one["cell_id"].split("__", 2)
    path = released / subset / name / f"{file.replace('-', ' ')}.png"
    np.testing.assert_array_equal(stored, files.read_rgb(path))
    again = tmp_path / "cells/cells.csv"
    before = again.stat().st_mtime_ns
    import_patches(released, tmp_path / "cells", side=30)
    assert again.stat().st_mtime_ns == before


def test_cells_of_an_image_share_a_subset_when_none_is_given(tmp_path):
    for k in range(45):
        write_patch(tmp_path / f"raw/{'AB'[k // 3 % 2]}/f{k // 3}-cell{k % 3}.png", k)
    cells = import_patches(
        tmp_path / "raw", tmp_path / "cells", image_of_patch=r"(f\d+)-cell\d", small_classes="train"
    )
    assert cells["image_id"].nunique() == 15
    assert not cells[["image_id", "split"]].drop_duplicates()["image_id"].duplicated().any()
    assert cells["split"].nunique() == 3


def test_leaks_are_refused(released, tmp_path):
    extra = released / "Test/MPP/field 0__0009.png"
    write_patch(extra, 5000)
    with pytest.raises(ValueError, match=r"Patches of image MPP__field 0 .*Test/MPP/field 0__0009"):
        import_patches(released, tmp_path / "cells")
    extra.unlink()
    write_patch(released / "Test/MPP/other.png", 1000)
    with pytest.raises(ValueError, match=r"in two subsets.*Training/MPP/field 0__0000.png"):
        import_patches(released, tmp_path / "cells")
    (released / "Test/MPP/other.png").unlink()
    write_patch(released / "Test/MPP/other.png", 0)
    with pytest.raises(ValueError, match=r"under two classes.*LT_HSC/field 0__0000.png"):
        import_patches(released, tmp_path / "cells")


def test_bad_files_are_listed_and_the_rest_goes_on(released, tmp_path, capsys):
    (released / "Training/MPP/torn__0001.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (released / "Training/MPP/notes.txt").write_text("notes")
    write_patch(released / "Training/MPP/later__0001.png", 1000)
    cells = import_patches(released, tmp_path / "cells")
    rejected = manifest.read_rejected(tmp_path / "cells").set_index("source")["reason"]
    assert len(cells) == 60
    assert "cannot be read as an image" in rejected["Training/MPP/torn__0001.png"]
    assert "does not end in" in rejected["Training/MPP/notes.txt"]
    assert len(rejected) == 3
    assert rejected.str.contains("byte for byte the same").sum() == 1
    assert "63 files: 60 cells of 20 images in 2 classes, 3 refused" in capsys.readouterr().out
    rows = np.load(tmp_path / "cells/patches.npy")[cells["row"]]
    assert rows.any(axis=(1, 2, 3)).all()


def test_no_patch_that_can_be_read(tmp_path):
    for name in "AB":
        path = tmp_path / f"raw/{name}/torn.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(ValueError, match=r"All 2 patches were refused.*cannot be read"):
        import_patches(tmp_path / "raw", tmp_path / "cells")


def test_notebook_02_takes_ready_cells(released, tmp_path):
    notebook = str(files.ROOT / "notebooks/02_blob_tuning.ipynb")
    given = {"study": str(tmp_path / "study"), "ready_cells_dir": str(released), "side": 30}
    papermill.execute_notebook(
        notebook, str(tmp_path / "02.ipynb"), given, progress_bar=False, cwd=tmp_path
    )
    table = manifest.read_cells(tmp_path / "study/cells")
    assert len(table) == 60
    assert np.load(tmp_path / "study/cells/patches.npy").shape == (60, 30, 30, 3)
    assert not (tmp_path / "study/cells/detection.json").exists()


def test_ready_cells_do_not_mix_with_prepared_images(released, tmp_path):
    (tmp_path / "study/prepared").mkdir(parents=True)
    (tmp_path / "study/prepared/images.csv").write_text("image_id\n")
    with pytest.raises(ValueError, match="a study of their own"):
        import_patches(released, tmp_path / "study/cells")


@pytest.mark.skipif("HSC_TEST_DATA" not in os.environ, reason="HSC_TEST_DATA is not set")
def test_real_white_blood_cells(tmp_path):
    folder = Path(os.environ["HSC_TEST_DATA"]) / "cells/white_blood_cells"
    table = import_patches(folder, tmp_path, small_classes="train")
    assert table["class"].value_counts()["neutrophil"] == 176
    assert table.loc[table["class"] == "basophil", "split"].tolist() == ["train"]
