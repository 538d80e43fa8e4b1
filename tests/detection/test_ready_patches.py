"""Ready images of single cells come in with their splits, and nothing leaks."""

import datetime
import itertools
import json
import os
from pathlib import Path

import imagecodecs
import numpy as np
import papermill
import pytest
import tifffile

from hsc_utils import files, manifest, provenance
from hsc_utils.detection import import_patches, read_patches, read_ready_patch
from hsc_utils.simulation.oir import write_oir


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
    assert "It cannot be read" in rejected["Training/MPP/torn__0001.png"]
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


# --- one reader: what notebook 01 refuses is refused here, and what it knows is known --------


def tree(folder, write, suffix, count=8):
    """Two classes of patches that a function writes from a picture."""
    for c, name in enumerate("AB"):
        for k in range(count):
            path = folder / name / f"im{name}{k}__0{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(100 * c + k)
            write(path, rng.integers(30, 200, (30, 30, 3), np.uint8))
    return folder


def write_png(path, pixels):
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def wide(pixels, bits=12):
    return pixels.astype(np.uint16) << (bits - 8)


def test_twelve_bits_in_sixteen_are_no_black_patches(tmp_path):
    raw = tree(tmp_path / "raw", lambda path, a: write_png(path, wide(a)), ".png")
    with pytest.raises(ValueError, match=r"16 bits, but their brightest pixel is 31.*such as 12"):
        import_patches(raw, tmp_path / "study/cells", 30)
    table = import_patches(raw, tmp_path / "study/cells", 30, bit_depth=12)
    patches = np.load(tmp_path / "study/cells/patches.npy")
    assert patches.max() > 190
    assert len(table) == 16


def test_all_sixteen_bits_are_used_in_tiff(tmp_path):
    def write(path, pixels):
        tifffile.imwrite(path, wide(pixels, 16), photometric="rgb")

    import_patches(tree(tmp_path / "raw", write, ".tif"), tmp_path / "study/cells", 30)
    assert 190 < np.load(tmp_path / "study/cells/patches.npy").max() <= 200


def test_depths_that_differ_are_refused_or_scaled_as_said(tmp_path):
    raw = tree(tmp_path / "raw", write_png, ".png")
    write_png(raw / "A/wide__0.png", wide(np.full((30, 30, 3), 180, np.uint8), 16))
    with pytest.raises(ValueError, match=r"different bit depths \(8 bits in .*16 bits in A/wide"):
        import_patches(raw, tmp_path / "study/cells", 30)
    table = import_patches(raw, tmp_path / "study/cells", 30, to_8_bit="own_depth")
    row = table.loc[table["cell_id"].str.contains("wide"), "row"].item()
    assert (np.load(tmp_path / "study/cells/patches.npy")[row] == 179).all()


def test_three_slices_of_a_stack_are_three_channels(tmp_path):
    def write(path, pixels):
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), photometric="minisblack")

    import_patches(tree(tmp_path / "raw", write, ".tif"), tmp_path / "study/cells", 30)
    import_patches(tree(tmp_path / "png", write_png, ".png"), tmp_path / "rgb/cells", 30)
    ours, theirs = (np.load(tmp_path / f"{name}/cells/patches.npy") for name in ("study", "rgb"))
    np.testing.assert_array_equal(ours, theirs)


def test_gray_patches_fill_all_channels_and_slices_can_be_chosen(tmp_path):
    raw = tree(tmp_path / "raw", lambda path, a: write_png(path, a[..., 0]), ".png")
    import_patches(raw, tmp_path / "study/cells", 30)
    patches = np.load(tmp_path / "study/cells/patches.npy")
    assert (patches == patches[..., :1]).all()
    import_patches(raw, tmp_path / "study/cells", 30, slices=[0])
    assert not np.load(tmp_path / "study/cells/patches.npy")[..., 1:].any()


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency(tmp_path, alpha):
    def write(path, pixels):
        write_png(path, np.dstack([pixels, np.full((30, 30), alpha, np.uint8)]))

    raw = tree(tmp_path / "raw", write, ".png")
    if alpha == 255:
        assert len(import_patches(raw, tmp_path / "study/cells", 30)) == 16
    else:
        with pytest.raises(ValueError, match=r"All 16 patches were refused.*transparen"):
            import_patches(raw, tmp_path / "study/cells", 30)


def test_jpeg_is_read_and_said(tmp_path, capsys):
    def write(path, pixels):
        path.write_bytes(imagecodecs.jpeg_encode(pixels))

    raw = tree(tmp_path / "raw", write, ".jpg")
    for _ in range(2):
        assert len(import_patches(raw, tmp_path / "study/cells", 30)) == 16
        assert "16 patches are JPEG, which loses detail." in capsys.readouterr().out


def test_oir_is_read_and_known_as_simulated(tmp_path):
    def write(path, pixels):
        planes = np.ascontiguousarray(np.moveaxis(wide(pixels), -1, 0))
        started = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
        told = {"channel_names": list("abc"), "acquired_at": started, "comment": "SIMULATED"}
        write_oir(path, planes, pixel_size_um=0.3, **told)

    table = import_patches(tree(tmp_path / "raw", write, ".oir"), tmp_path / "study/cells", 30)
    assert len(table) == 16
    assert table["simulated"].all()
    assert np.load(tmp_path / "study/cells/patches.npy").max() > 190


def test_channels_in_files_of_their_own_are_said_and_joined_if_asked(tmp_path, capsys):
    def write(path, pixels):
        for k in range(3):
            write_png(path.with_name(f"{path.stem[:-3]}_C{k}.png"), pixels[..., k])

    raw = tree(tmp_path / "raw", write, ".png")
    table = import_patches(raw, tmp_path / "study/cells", 30)
    assert "48 files differ from others in the channel alone" in capsys.readouterr().out
    assert (table["image_id"].nunique(), len(table)) == (16, 48)
    assert (table.groupby("image_id")["split"].nunique() == 1).all()
    table = import_patches(raw, tmp_path / "study/cells", 30, slices=["files"])
    assert len(table) == 16
    import_patches(tree(tmp_path / "png", write_png, ".png"), tmp_path / "rgb/cells", 30)
    ours, theirs = (np.load(tmp_path / f"{name}/cells/patches.npy") for name in ("study", "rgb"))
    np.testing.assert_array_equal(ours, theirs)
    assert len(manifest.read_rejected(tmp_path / "study/cells")) == 32


# --- nothing disappears ------------------------------------------------------------------


def test_a_class_that_is_refused_as_a_whole_is_an_error_that_names_it(tmp_path):
    raw = tree(tmp_path / "raw", write_png, ".png")
    for k in range(3):
        path = raw / f"C/torn{k}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(ValueError, match=r"All 3 patches of class C were refused.*torn0\.png"):
        import_patches(raw, tmp_path / "study/cells")
    assert not (tmp_path / "study/cells/patches.npy").exists()


def test_every_file_ends_in_one_table_also_those_that_come_later(tmp_path):
    raw = tree(tmp_path / "raw", write_png, ".png")
    cells = import_patches(raw, tmp_path / "study/cells")
    for later in ("A/notes.txt", "B/clip.avi", "A/torn.png"):
        (raw / later).write_bytes(b"\x89PNG\r\n\x1a\n torn")
        again = import_patches(raw, tmp_path / "study/cells")
        rejected = manifest.read_rejected(tmp_path / "study/cells")
        assert later in set(rejected["source"])
        assert len(again) == len(cells) == 16
    assert len(rejected) == 3


@pytest.mark.parametrize("case", ["no class folders", "empty", "absent", "a file"])
def test_folders_that_hold_no_patches(tmp_path, case):
    raw = tmp_path / "raw"
    if case == "a file":
        raw.write_bytes(b"")
    elif case != "absent":
        raw.mkdir()
    if case == "no class folders":
        for k in range(6):
            write_patch(raw / f"{k}.png", k)
    with pytest.raises((ValueError, OSError), match=r"class folder|ready_cells_dir") as caught:
        import_patches(raw, tmp_path / "study/cells")
    assert "raw_dir" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"side": 0}, "side is 0 px"),
        ({"image_of_patch": "("}, "image_of_patch is .*a group"),
        ({"image_of_patch": "abc"}, "image_of_patch is 'abc'"),
        ({"small_classes": "drop"}, "small_classes is 'drop'"),
        ({"seed": None}, "seed is None"),
        ({"bit_depth": "12"}, "bit_depth is '12'"),
        ({"to_8_bit": "log"}, "to_8_bit is 'log'"),
        ({"slices": [9]}, "no slice 9"),
    ],
)
def test_impossible_requests(tmp_path, option, message):
    raw = tree(tmp_path / "raw", write_png, ".png")
    with pytest.raises(ValueError, match=message):
        import_patches(raw, tmp_path / "study/cells", **option)


@pytest.mark.parametrize("name", ["provenance.json", "cells.csv", "patches.npy"])
def test_damaged_results_are_set_aside_and_made_again(tmp_path, capsys, name):
    raw = tree(tmp_path / "raw", write_png, ".png")
    first = import_patches(raw, tmp_path / "study/cells")
    path = tmp_path / "study/cells" / name
    path.write_bytes(path.read_bytes()[:-30])
    again = import_patches(raw, tmp_path / "study/cells")
    assert f"set aside as {name}.damaged" in capsys.readouterr().out
    assert again.equals(first)
    assert len(np.load(tmp_path / "study/cells/patches.npy")) == 16


@pytest.mark.skipif("HSC_TEST_DATA" not in os.environ, reason="HSC_TEST_DATA is not set")
def test_real_white_blood_cells(tmp_path):
    folder = Path(os.environ["HSC_TEST_DATA"]) / "cells/white_blood_cells"
    table = import_patches(folder, tmp_path, small_classes="train")
    assert table["class"].value_counts()["neutrophil"] == 176
    assert table.loc[table["class"] == "basophil", "split"].tolist() == ["train"]


def test_folders_name_groups(tmp_path):
    for name, day, k in itertools.product(("a", "b"), ("monday", "friday"), range(5)):
        write_patch(
            tmp_path / "cells" / name / day / f"{k}.png", (ord(name), ord(day[0]), k), (9, 9)
        )
    cells = import_patches(tmp_path / "cells", tmp_path / "out", 9, group="folder2")
    assert cells.groupby("group").size().to_dict() == {"friday": 10, "monday": 10}
    assert cells["cell_id"].str.contains("monday").sum() == 10
    with pytest.raises(ValueError, match="a folder level"):
        import_patches(tmp_path / "cells", tmp_path / "other", 9, group="slide")


def test_classes_shares_and_name_are_as_asked(tmp_path):
    for name in ("a", "b", "c"):
        for k in range(20):
            write_patch(tmp_path / "cells" / name / f"{k:03d}.png", (ord(name), k), (12, 12))
    cells = import_patches(
        tmp_path / "cells",
        tmp_path / "out",
        12,
        class_names=["a", "b"],
        fractions=(0.5, 0.2, 0.3),
        dataset="two of three",
    )
    counts = cells.groupby("class")["split"].value_counts().unstack()
    assert counts.index.tolist() == ["a", "b"]
    assert counts[["train", "validation", "test"]].to_numpy().tolist() == [[10, 4, 6]] * 2
    assert json.loads((tmp_path / "out/provenance.json").read_text())["dataset"] == "two of three"
    rejected = manifest.read_rejected(tmp_path / "out")
    assert len(rejected) == 20
    assert rejected["source"].str.startswith("c/").all()
    patch, one = read_ready_patch(tmp_path / "cells" / "a" / "000.png", 12)
    row = cells.set_index("cell_id").loc["a__000", "row"]
    np.testing.assert_array_equal(patch, read_patches(tmp_path / "out", cells)[row])
    assert one.composed


def test_an_image_in_two_groups_is_refused(tmp_path):
    for k in range(40):
        day = ("monday", "friday")[k % 2]
        write_patch(tmp_path / f"raw/{'AB'[k // 20]}/{day}/f{k // 2}__0001.png", k, (9, 9))
    with pytest.raises(ValueError, match=r"image A__f\d+ lie in more than one group .*friday"):
        import_patches(tmp_path / "raw", tmp_path / "out", 9, group="folder2")
    assert not (tmp_path / "out/cells.csv").exists()
