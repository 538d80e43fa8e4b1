"""Trees of files as people and systems leave them: every file ends in one table, or is named."""

import contextlib
import errno
import json
import os

import imagecodecs
import numpy as np
import pytest
import tifffile

from hsc_utils import manifest
from hsc_utils.preparation import (
    AcquisitionError,
    ImageSettings,
    list_sources,
    prepare_images,
    read_acquisition,
    sources,
)

_numbers = iter(range(10**6))


def png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(next(_numbers)).integers(0, 256, (24, 24, 3), np.uint8)
    path.write_bytes(imagecodecs.png_encode(rgb.repeat(2, 0).repeat(2, 1)))
    return path


def fill(folder, count=5):
    for k in range(count):
        png(folder / f"f{k}.png")


def gray(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    plane = np.random.default_rng(level).integers(0, 256, (32, 32), np.uint8)
    tifffile.imwrite(path, plane, photometric="minisblack", metadata=None)
    return plane


def prepare(tmp_path, **kwargs):
    return prepare_images(tmp_path / "raw", tmp_path / "out", workers=1, **kwargs)


def rejected(tmp_path):
    return manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]


@pytest.mark.parametrize(
    "name",
    [
        ".AppleDouble",
        "@eaDir",
        "System Volume Information",
        "$RECYCLE.BIN",
        ".Trash-1000",
        ".snapshot",
        "#snapshot",
        "#recycle",
        "@Recycle",
        "Network Trash Folder",
        "lost+found",
        "FOUND.000",
        "__MACOSX",
    ],
)
def test_folders_of_systems_are_named_and_no_data(tmp_path, capsys, name):
    for below in ("neutrophil", "monocyte"):
        fill(tmp_path / "raw" / below)
        fill(tmp_path / "raw" / name / below, 2)
    png(tmp_path / f"raw/neutrophil/{name}/f0.png/thumbnail.png")
    (tmp_path / "raw" / name / "empty").mkdir()
    images = prepare(tmp_path)
    assert sorted(images["class"].unique()) == ["monocyte", "neutrophil"]
    assert len(images) == 10
    assert sorted(rejected(tmp_path).index) == sorted([f"{name}/", f"neutrophil/{name}/"])
    said = capsys.readouterr().out
    assert "10 files: 10 images in 2 classes, 0 refused" in said
    assert f"neutrophil/{name}/: A folder that a system" in said


def test_files_of_systems_are_no_data(tmp_path):
    for name in ("A", "B"):
        fill(tmp_path / "raw" / name)
        for left in ("Thumbs.db", "desktop.ini", "._f0.png", ".DS_Store", "~$notes.docx", "Icon\r"):
            (tmp_path / "raw" / name / left).write_bytes(b"\0\5\x16\7")
    assert len(prepare(tmp_path)) == 10
    assert rejected(tmp_path).empty


def test_names_that_only_resemble_those_of_systems_stay(tmp_path):
    for name in ("#1", "$cost", "trash", "recycling", "@home"):
        fill(tmp_path / "raw" / name)
    assert prepare(tmp_path)["class"].nunique() == 5


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, capsys):
    for name in ("A/day1", "A/day2", "B/day1"):
        fill(tmp_path / "raw" / name)
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("A/day2"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert len(prepare(tmp_path)) == 10
    assert "cannot be listed (Permission denied)" in rejected(tmp_path)["A/day2/"]
    assert "A/day2/: This folder cannot be listed" in capsys.readouterr().out


@pytest.mark.parametrize("place", [b"raw/A/M\xe4use.png", b"raw/A/Tag \xb5/x.png"])
def test_names_that_are_no_utf8_are_listed(tmp_path, place):
    for name in ("A", "B"):
        fill(tmp_path / "raw" / name)
    strange = os.fsencode(tmp_path) + b"/" + place
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(strange))  # noqa: PTH102, PTH120 -- bytes
    os.rename(png(tmp_path / "x.png"), strange)  # noqa: PTH104 -- bytes
    assert len(prepare(tmp_path)) == 10
    (name,) = rejected(tmp_path).index
    assert "\\x" in name
    assert "not valid UTF-8" in rejected(tmp_path)[name]


def test_a_class_whose_folder_is_no_utf8_does_not_vanish(tmp_path):
    fill(tmp_path / "raw/A")
    fill(tmp_path / "raw/B")
    os.rename(tmp_path / "raw/B", os.fsencode(tmp_path) + b"/raw/Gr\xf6\xdfe")  # noqa: PTH104
    with pytest.raises(ValueError, match=r"Gr\\xf6.*UTF-8|UTF-8.*Gr\\xf6"):
        prepare(tmp_path)


def test_awkward_names_are_read(tmp_path):
    names = [
        "{day}",
        "it's",
        'say "hi"',
        "a b",
        "two\nlines",
        "back\\slash",
        "100%",
        "Ä–µ",
        "-rf",
    ]
    for name in ("A+", "A-"):
        for k, stem in enumerate(names):
            png(tmp_path / f"raw/{name}/{stem}/{k}{stem}.png")
    images = prepare(tmp_path)
    assert len(images) == 18
    assert set(images["class"]) == {"A+", "A-"}
    assert all((tmp_path / "raw" / source).is_file() for source in images["source"])
    again = prepare(tmp_path)
    assert again.equals(images)
    png(tmp_path / "raw/A+/car\rriage.png")
    assert len(prepare(tmp_path)) == 18
    assert "carriage return" in rejected(tmp_path)["A+/car\\x0driage.png"]


@pytest.mark.parametrize("other", ["control", "treated"])
def test_a_class_may_be_called_test(tmp_path, other):
    fill(tmp_path / "raw/test")
    fill(tmp_path / "raw" / other)
    assert prepare(tmp_path)["class"].value_counts().to_dict() == {"test": 5, other: 5}


def test_classes_called_like_subsets_can_be_named(tmp_path):
    for name in ("train", "test"):
        fill(tmp_path / f"raw/{name}/day1")
        fill(tmp_path / f"raw/{name}/day2")
    images = prepare(tmp_path, class_names=["train", "test"])
    assert images["class"].value_counts().to_dict() == {"train": 10, "test": 10}
    assert images["split"].nunique() == 3


def test_subsets_above_classes_still_count(tmp_path):
    for subset in ("train", "val", "test"):
        fill(tmp_path / f"raw/{subset}/A", 2)
        fill(tmp_path / f"raw/{subset}/B", 2)
    images = prepare(tmp_path)
    assert images.groupby("split")["class"].nunique().to_dict() == {
        "test": 2,
        "train": 2,
        "validation": 2,
    }


def test_a_tree_of_one_subset_is_said(tmp_path, capsys):
    fill(tmp_path / "raw/test/A")
    fill(tmp_path / "raw/test/B")
    assert set(prepare(tmp_path)["split"]) == {"test"}
    assert "none is for train" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["", "train", "test"])
def test_images_without_class_folders(tmp_path, folder):
    fill(tmp_path / "raw" / folder)
    with pytest.raises(ValueError, match=r"None of the 5 files in .* lies in a class folder"):
        prepare(tmp_path)


# Classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["LTHSC2", "LT-HSC old", "LT HCS", "my LT-HSCs", "LTHSCneu"])
def test_folders_that_nearly_match_a_missing_class_are_refused(tmp_path, folder):
    for name in (folder, "ST", "MPP"):
        fill(tmp_path / "raw" / name)
    with pytest.raises(ValueError, match=f"{folder} nearly matches LT-HSC"):
        prepare(tmp_path)
    images = prepare(tmp_path, class_names=["ST-HSC", "MPP"])
    assert set(images["class"]) == {"ST-HSC", "MPP"}
    assert "nearly matches" not in rejected(tmp_path).iloc[0]


@pytest.mark.parametrize("folder", ["MPPs old", "MPP2", "mpp_new"])
def test_folders_that_nearly_match_a_class_are_named(tmp_path, capsys, folder):
    for name in ("LT", "ST", "MPP", folder):
        fill(tmp_path / "raw" / name)
    assert len(prepare(tmp_path)) == 15
    assert f"5 images in {folder} are left out" in capsys.readouterr().out
    assert rejected(tmp_path).str.contains("though it nearly matches MPP").all()


def test_spaces_around_a_name_do_not_matter(tmp_path):
    for name in ("LT-HSC ", " ST-HSC", "MPP"):
        fill(tmp_path / "raw" / name)
    assert set(prepare(tmp_path)["class"]) == {"LT-HSC", "ST-HSC", "MPP"}


def test_own_classes_beside_one_of_the_papers_are_not_dropped(tmp_path):
    for name in ("MPP", "CMP", "GMP"):
        fill(tmp_path / "raw" / name)
    with pytest.raises(ValueError, match=r"Only MPP would be used; CMP, GMP would not"):
        prepare(tmp_path)
    assert prepare(tmp_path, class_names=["MPP", "CMP", "GMP"])["class"].nunique() == 3


def test_classes_that_sanitise_alike_stay_apart(tmp_path):
    for name in ("CD34+", "CD34-"):
        fill(tmp_path / "raw" / name)
    for names in ([], ["CD34+", "CD34-"]):
        images = prepare(tmp_path, class_names=names)
        assert images["class"].value_counts().to_dict() == {"CD34+": 5, "CD34-": 5}
        assert (images["source"].str.split("/").str[0] == images["class"]).all()
        assert images["image_id"].is_unique


def test_days_above_classes(tmp_path):
    for day in ("2024-03-04", "2024-03-05"):
        for name in ("neutrophil", "monocyte"):
            fill(tmp_path / f"raw/{day}/{name}", 3)
    with pytest.raises(ValueError, match=r"2024-03-04, 2024-03-05\) look like days.*class_names"):
        prepare(tmp_path)
    images = prepare(tmp_path, class_names=["neutrophil", "monocyte"], group="folder1")
    assert images["class"].value_counts().to_dict() == {"neutrophil": 6, "monocyte": 6}
    assert set(images["group"]) == {"2024-03-04", "2024-03-05"}


def test_the_papers_classes_are_found_on_any_level(tmp_path):
    for day in ("mouse one", "mouse two"):
        for name in ("LT", "st_hsc", "MPPs"):
            fill(tmp_path / f"raw/site/{day}/{name}", 2)
    assert prepare(tmp_path)["class"].value_counts().to_dict() == {
        "LT-HSC": 4,
        "ST-HSC": 4,
        "MPP": 4,
    }


def test_days_below_classes_stay_days(tmp_path):
    for name in ("neutrophil", "monocyte"):
        for day in ("day1", "day2"):
            fill(tmp_path / f"raw/{name}/{day}", 3)
    assert set(prepare(tmp_path)["class"]) == {"neutrophil", "monocyte"}


# One file per channel ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [("_C0", "_C1"), ("_ch00", "_ch01", "_ch02"), ("-DIC", "-BF"), ("_w1DIC", "_w2GFP")],
)
def test_channels_in_separate_files(tmp_path, capsys, tokens):
    planes = {}
    for c, name in enumerate("AB"):
        for field in range(5):
            for k, token in enumerate(tokens):
                path = tmp_path / f"raw/{name}/field{field}{token}.tif"
                planes[name, field, k] = gray(path, 100 * c + 10 * field + k)
    with pytest.raises(ValueError, match="one channel of several files: add files to `slices`"):
        prepare(tmp_path)
    images = prepare(tmp_path, settings=ImageSettings(slices=["files"]))
    assert len(images) == 10
    assert (images["slices"] == len(tokens)).all()
    first = images.iloc[0]
    assert first["channel_names"] == ";".join(token[1:] for token in sorted(tokens))
    one = read_acquisition(tmp_path / "raw" / first["source"], slices=["files"])
    order = sorted(range(len(tokens)), key=lambda k: tokens[k])
    np.testing.assert_array_equal(one.slices[0], planes["A", 0, order[0]])
    parts = rejected(tmp_path)
    assert len(parts) == 10 * (len(tokens) - 1)
    assert parts.str.contains("is a channel of .*, which is read with it").all()
    chosen = ImageSettings(slices=["files", tokens[1][1:]])
    assert len(prepare(tmp_path, settings=chosen)) == 10
    capsys.readouterr()
    images = prepare(tmp_path, settings=ImageSettings(slices=[0]))
    assert (
        f"{10 * len(tokens)} files look like single channels of 10 fields"
        in capsys.readouterr().out
    )
    fields = images["source"].str.extract(r"(.*field\d)")[0]
    assert (images.groupby(fields)["split"].nunique() == 1).all()


def test_a_change_in_a_joined_file_is_noticed(tmp_path, capsys):
    for field in range(4):
        for k in range(2):
            gray(tmp_path / f"raw/A/f{field}_C{k}.tif", 10 * field + k)
    settings = ImageSettings(slices=["files"])
    before = prepare(tmp_path, settings=settings)
    gray(tmp_path / "raw/A/f2_C1.tif", 99)
    after = prepare(tmp_path, settings=settings)
    assert "1 files read now, 3 done before" in capsys.readouterr().out
    assert (before["sha256"] != after["sha256"]).sum() == 1
    gray(tmp_path / "raw/A/f3_C2.tif", 98)
    assert prepare(tmp_path, settings=settings)["slices"].tolist() == [2, 2, 2, 3]


def test_joining_says_what_does_not_fit(tmp_path):
    gray(tmp_path / "a.tif", 1)
    with pytest.raises(AcquisitionError, match="no name beside it differs in the channel alone"):
        read_acquisition(tmp_path / "a.tif", slices=["files"])
    gray(tmp_path / "b_C0.tif", 1)
    png(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "b_C1.tif", np.zeros((16, 16), np.uint8), photometric="minisblack")
    with pytest.raises(AcquisitionError, match=r"b_C1\.tif differs in size"):
        read_acquisition(tmp_path / "b_C0.tif", slices=["files"])


def test_numbered_files_are_no_channels():
    names = [sources.PurePosixPath(f"A/cell_c{k}.png") for k in range(12)]
    assert sources.channel_sets(names) == []
    assert sources.channel_sets([sources.PurePosixPath(f"A/dic{k}.png") for k in range(3)]) == []


# The project's own files -------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\0", b"[]", b'{"reason": ""}', b"null"])
def test_damaged_records_are_named_and_made_again(tmp_path, capsys, content):
    fill(tmp_path / "raw/A")
    before = prepare(tmp_path)
    record = tmp_path / "out/records/A__f1.json"
    whole = record.read_bytes()
    record.write_bytes(content)
    assert prepare(tmp_path).equals(before)
    said = capsys.readouterr().out
    assert "1 files read now" in said
    assert "1 damaged files were made again: records/A__f1.json" in said
    assert record.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:99], lambda b: bytes(len(b)), lambda b: b + b"x"]
)
def test_damaged_images_are_named_and_made_again(tmp_path, capsys, damage):
    fill(tmp_path / "raw/A")
    prepare(tmp_path)
    image = tmp_path / "out/images/A__f3.png"
    whole = image.read_bytes()
    image.write_bytes(damage(whole))
    prepare(tmp_path)
    assert "made again: images/A__f3.png" in capsys.readouterr().out
    assert image.read_bytes() == whole


@pytest.mark.parametrize("name", ["images.csv", "rejected.csv", "provenance.json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\xff\0" * 9]
)
def test_damaged_tables_are_named_and_made_again(tmp_path, name, damage):
    fill(tmp_path / "raw/A")
    (tmp_path / "raw/A/notes.txt").touch()
    images = prepare(tmp_path, dataset="mine")
    path = tmp_path / "out" / name
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    if name != "provenance.json":
        read = manifest.read_images if name == "images.csv" else manifest.read_rejected
        with pytest.raises(
            ValueError, match=rf"{name} is empty, cut short or damaged.*notebook 01"
        ):
            read(tmp_path / "out")
    assert prepare(tmp_path).equals(images)
    if name == "provenance.json":
        json.loads(path.read_text())
    else:
        assert path.read_bytes() == whole


def test_a_number_that_is_none_is_said(tmp_path):
    fill(tmp_path / "raw/A")
    prepare(tmp_path)
    path = tmp_path / "out/images.csv"
    path.write_text(path.read_text().replace(",48,", ",4x,", 1))
    with pytest.raises(ValueError, match="damaged: not every height is of type int"):
        manifest.read_images(tmp_path / "out")


def test_pictures_of_others_in_the_folder_are_never_deleted(tmp_path):
    fill(tmp_path / "raw/A")
    theirs = png(tmp_path / "out/images/holiday.png")
    prepare(tmp_path)
    assert theirs.exists()


def test_a_list_of_sources_names_the_callers_parameter(tmp_path):
    with pytest.raises(FileNotFoundError, match="parameter ready_cells_dir"):
        list_sources(tmp_path / "gone", parameter="ready_cells_dir")
    with pytest.raises(FileNotFoundError, match="parameter ready_cells_dir"):
        list_sources(tmp_path, parameter="ready_cells_dir")


def test_new_images_need_no_class(tmp_path):
    """A tree of any shape is listed; folders that name a known class label their files."""
    for name in (
        "a.png",
        "LT_HSC/day 1/b.tif",
        "day 2/mpp/c.oir",
        "day 2/notes.txt",
        "MPP/LT/e.png",
        "x/y/z/d.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "@eaDir").mkdir()
    table = sources.list_new_sources(tmp_path, ["LT-HSC", "ST-HSC", "MPP"]).set_index("source")
    usable = table[table["reason"] == ""]
    expected = {"a.png": "", "LT_HSC/day 1/b.tif": "LT-HSC", "day 2/mpp/c.oir": "MPP"}
    assert usable["class"].to_dict() == expected | {"x/y/z/d.jpg": "", "MPP/LT/e.png": ""}
    assert set(table.index) - set(usable.index) == {"day 2/notes.txt", "@eaDir/"}
    assert usable["image_id"].is_unique
    with pytest.raises(FileNotFoundError, match=r"holds no \.oir"):
        sources.list_new_sources(tmp_path / "@eaDir", ["MPP"])
