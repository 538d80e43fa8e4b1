"""A tree of files → PNGs and tables: every file ends in one table, and stopping costs nothing."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import cv2
import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

from hsc_utils import manifest, provenance
from hsc_utils.preparation import (
    AcquisitionError,
    ImageSettings,
    brightness_by_class,
    compose_rgb,
    conversion,
    duplicates,
    figures,
    histograms,
    prepare_images,
    read_acquisition,
    sources,
)
from hsc_utils.simulation.oir import write_oir

MOMENT = datetime(2024, 3, 4, 9, tzinfo=UTC)


def field(seed, *shape, bits=12):
    """Draw smooth blobs with noise, so that two seeds look different and one looks like itself."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((shape[-2] // 8, shape[-1] // 8))
    smooth = cv2.resize(coarse, shape[:-3:-1], interpolation=cv2.INTER_CUBIC)
    noisy = smooth + 0.02 * rng.standard_normal(shape)
    dtype = np.uint8 if bits <= 8 else np.uint16
    return (np.clip(noisy, 0, 1) * ((1 << bits) - 1)).astype(dtype)


def write_png(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.moveaxis(field(seed, 3, 64, 64, bits=8), 0, -1)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rgb)))
    return rgb


@pytest.fixture
def raw(tmp_path):
    """OIR of 2 to 4 slices over two days, TIFF, PNG, and files that cannot be used."""
    folder = tmp_path / "raw"
    seed = 0
    for name in ("LT-HSC", "st_hsc", "MPP"):
        for k in range(5):
            seed += 1
            count = 2 + k % 3
            write_oir(
                folder / name / f"day{k % 2}" / f"f{k}.oir",
                field(seed, count, 64, 64),
                channel_names=[f"c{c}" for c in range(count)],
                pixel_size_um=0.5,
                acquired_at=MOMENT + timedelta(days=k % 2),
                comment="SIMULATED",
            )
    tifffile.imwrite(folder / "MPP/a.tif", field(90, 3, 64, 48), photometric="minisblack")
    write_png(folder / "MPP/b c.png", 91)
    (folder / "MPP/broken.oir").write_bytes(b"OLYMPUSRAWFORMAT" + bytes(100))
    tifffile.imwrite(folder / "MPP/one.tif", field(92, 64, 64), photometric="minisblack")
    (folder / "MPP/notes.txt").write_text("seen under the microscope")
    (folder / "MPP/.DS_Store").touch()
    (folder / "blurred").mkdir()
    write_png(folder / "blurred/x.png", 93)
    return folder


def prepare(raw, folder, **kwargs):
    return prepare_images(raw, folder, workers=kwargs.pop("workers", 1), **kwargs)


def contents(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "provenance.json"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_every_file_ends_in_one_table(raw, tmp_path, capsys):
    images = prepare(raw, tmp_path / "out")
    rejected = manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]
    assert "21 files: 17 images in 3 classes, 4 refused" in capsys.readouterr().out
    refused = ["MPP/broken.oir", "MPP/notes.txt", "MPP/one.tif", "blurred/x.png"]
    assert sorted(rejected.index) == refused
    assert "1 slice" in rejected["MPP/one.tif"]
    assert "Its folder blurred is no class" in rejected["blurred/x.png"]
    assert images["class"].value_counts().to_dict() == {"MPP": 7, "LT-HSC": 5, "ST-HSC": 5}
    pd.testing.assert_frame_equal(images, manifest.read_images(tmp_path / "out"))
    row = images.set_index("image_id").loc["st_hsc__day1__f1"]
    assert row["acquired_at"] == "2024-03-05T09:00:00+00:00"
    assert row["group"] == "2024-03-05"
    assert row["channel_names"] == "c0;c1;c2"
    assert (row["bit_depth"], row["pixel_size_um"], row["simulated"]) == (12, 0.5, True)
    assert images["fourth_slice_contrast"].notna().equals(images["slices"] == 4)
    assert images.dtypes[["slices", "height", "width", "bit_depth"]].eq("int64").all()


def test_images_are_the_composed_acquisitions(raw, tmp_path):
    images = prepare(raw, tmp_path / "out")
    for image in images.to_dict("records"):
        got = imagecodecs.png_decode((tmp_path / "out" / image["path"]).read_bytes())
        expected = compose_rgb(read_acquisition(raw / image["source"]))
        np.testing.assert_array_equal(got, expected)
        assert got.shape == (image["height"], image["width"], 3)
        means = [image[f"mean_{channel}"] for channel in "rgb"]
        np.testing.assert_allclose(means, got.mean(axis=(0, 1)), atol=1e-4)
    ready = tmp_path / "out/images/MPP__b-c.png"
    np.testing.assert_array_equal(cv2.imread(str(ready))[..., ::-1], write_png(tmp_path / "p", 91))


def test_finished_work_is_kept_and_redone_where_it_changed(raw, tmp_path, capsys):
    prepare(raw, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    prepare(raw, tmp_path / "out")
    assert "0 files read now" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in before}
    write_png(raw / "MPP/b c.png", 95)
    (raw / "MPP/a.tif").unlink()
    (tmp_path / "out/images/LT-HSC__day0__f0.png").unlink()
    prepare(raw, tmp_path / "out")
    assert "2 files read now" in capsys.readouterr().out
    prepare(raw, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    record = tmp_path / "out/records/MPP__day0__f0.json"
    record.write_text(record.read_text().replace('"code": "', '"code": "0'))
    prepare(raw, tmp_path / "out")
    assert "1 files read now" in capsys.readouterr().out
    prepare(raw, tmp_path / "out", settings=ImageSettings(to_8_bit="slice"))
    assert "18 files read now" in capsys.readouterr().out


def test_the_data_set_is_recorded_and_may_be_renamed(raw, tmp_path):
    prepare(raw, tmp_path / "out", dataset="mice of 2024")
    prepare(raw, tmp_path / "out")
    assert provenance.dataset_name(tmp_path / "out") == "mice of 2024"
    prepare(raw, tmp_path / "out", dataset="mice of 2025")
    assert provenance.dataset_name(tmp_path / "out") == "mice of 2025"


def test_killed_and_restarted_ends_the_same(raw, tmp_path):
    prepare(raw, tmp_path / "whole")
    code = (
        "import sys; from hsc_utils import preparation as p; print('ready', flush=True); "
        "p.prepare_images(sys.argv[1], sys.argv[2], workers=1)"
    )
    run = [sys.executable, "-c", code, str(raw), str(tmp_path / "killed")]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while not list((tmp_path / "killed").glob("images/L*f1.png")) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("images/L*.png")}
    prepare(raw, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sum(p.stat().st_mtime_ns == t for p, t in done.items()) >= len(done) - 1


def test_processes_give_the_same_and_survive_a_hang(raw, tmp_path):
    """A file that ends its process takes nothing else with it."""
    prepare(raw, tmp_path / "one")
    os.mkfifo(raw / "MPP/pipe.png")  # reading it waits for ever
    jobs = sources.list_sources(raw).query("reason == ''")
    pipe = pd.DataFrame({"source": ["MPP/pipe.png"], "image_id": ["pipe"], "channels": [()]})
    jobs = pd.concat([pipe, jobs], ignore_index=True)
    records, count = conversion.convert(jobs, raw, tmp_path / "two", ImageSettings(), 2, 2)
    records = records.set_index("source")
    assert count == len(jobs)
    assert "took longer than 2 s" in records.loc["MPP/pipe.png", "reason"]
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert set(two) - set(one) == {"records/pipe.json"}
    assert all(two[path] == one[path] for path in one if not path.endswith(".csv"))


@dataclass(frozen=True)
class Deadly(ImageSettings):
    """Settings that end every process but the one they were made in."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_crash_is_refused_after_a_second_attempt(raw, tmp_path):
    jobs = sources.list_sources(raw).query("reason == ''").head(2)
    records, _ = conversion.convert(jobs, raw, tmp_path / "out", Deadly(), 2, 60)
    assert records["reason"].str.contains("crashed the program .* twice").all()
    assert not list((tmp_path / "out/images").iterdir())


def test_a_script_without_a_main_guard_is_not_run_again(raw, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from hsc_utils.preparation import prepare_images\n"
        "print('runs'); prepare_images(*sys.argv[1:], workers=2)\n"
    )
    run = [sys.executable, script, raw, tmp_path / "out"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.count("runs") == 1


FULL_DISK = """
mount -t tmpfs -o size=96k none "$2" && "$1" -c "$4" "$3" "$2/out"
echo "exit $?"; ls -A "$2"/out/*
mount -o remount,size=16m "$2" && "$1" -c "$4" "$3" "$2/out" && cp -r "$2/out" "$3/../after"
"""


def test_full_disk_stops_with_a_clear_message(raw, tmp_path):
    """On a disk that is really full: a file system of 96 kB in a name space of its own."""
    disk, code = (
        tmp_path / "disk",
        (
            "import sys; from hsc_utils.preparation import prepare_images; "
            "prepare_images(*sys.argv[1:], workers=1)"
        ),
    )
    disk.mkdir()
    apart = ["unshare", "--map-root-user", "--mount", "bash", "-c", FULL_DISK, "-"]
    if subprocess.run([*apart[:3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no name space of one's own (unshare)")
    run = subprocess.run(
        [*apart, sys.executable, disk, raw, code], capture_output=True, text=True, check=True
    )
    assert "exit 1" in run.stdout
    assert re.search(r"disk of .* is full.*run this again", run.stderr)
    assert "images.csv" not in run.stdout.partition("exit 1")[2]
    assert ".part" not in run.stdout
    prepare(raw, tmp_path / "fresh")
    assert contents(tmp_path / "after") == contents(tmp_path / "fresh")


def test_copies_within_and_across_classes(raw, tmp_path):
    copy = (raw / "LT-HSC/day0/f0.oir").read_bytes()
    (raw / "LT-HSC/day1/again.oir").write_bytes(copy)
    images = prepare(raw, tmp_path / "out")
    rejected = manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]
    assert "same as LT-HSC/day0/f0.oir" in rejected["LT-HSC/day1/again.oir"]
    assert not (tmp_path / "out/images/LT-HSC__day1__again.png").exists()
    assert len(images) == 17
    (raw / "MPP/swapped.oir").write_bytes(copy)
    with pytest.raises(ValueError, match=r"under two classes.*LT-HSC/day0/f0.oir = MPP/swapped"):
        prepare(raw, tmp_path / "out")


def test_near_duplicates_are_found_and_share_a_subset(raw, tmp_path):
    again = field(1, 2, 64, 64)
    noise = np.random.default_rng(5).integers(0, 40, again.shape)
    pixels = np.clip(again + noise, 0, 4095).astype(np.uint16)
    tifffile.imwrite(raw / "LT-HSC/again.tif", pixels, photometric="minisblack")
    images = prepare(raw, tmp_path / "out", settings=ImageSettings(bit_depth=12))
    pairs = manifest.near_duplicates(images)
    assert pairs[["image_id", "near_duplicate_of"]].to_numpy().tolist() == [
        ["LT-HSC__day0__f0", "LT-HSC__again"]
    ]
    assert (pairs["split"] == pairs["split_of_other"]).all()


def test_looks_ignore_noise_and_gain_but_not_the_field():
    rgb = np.moveaxis(field(3, 3, 256, 256, bits=8), 0, -1)
    other = np.moveaxis(field(4, 3, 256, 256, bits=8), 0, -1)
    dimmer = (rgb * 0.8 + 10).astype(np.uint8)
    shifted = np.roll(rgb, (2, -1), (0, 1))
    hashes = pd.Series([duplicates.look(image) for image in (rgb, other, dimmer, shifted)])
    names = pd.Series(["a", "b", "c", "d"])
    assert duplicates.similar_looks(hashes, names).to_list() == ["", "", "a", "a"]


def test_given_splits_are_kept_and_checked(tmp_path):
    raw, seed = tmp_path / "raw", 0
    for subset in ("Training", "val", "test"):
        for name in ("eosinophil", "monocyte"):
            for k in range(2):
                seed += 1
                write_png(raw / subset / name / f"{k}.png", seed)
    images = prepare(raw, tmp_path / "out")
    assert set(images["class"]) == {"eosinophil", "monocyte"}
    expected = {"Training": "train", "val": "validation", "test": "test"}
    assert (images["source"].str.split("/").str[0].map(expected) == images["split"]).all()
    write_png(raw / "test/monocyte/leak.png", 3)
    with pytest.raises(ValueError, match=r"in two subsets.*Training/monocyte/0.png = test/mono"):
        prepare(raw, tmp_path / "out")
    (raw / "test/monocyte/leak.png").unlink()
    write_png(raw / "monocyte/x.png", 99)
    with pytest.raises(ValueError, match=r"12 files lie in .* and 1 do not.*monocyte/x.png"):
        prepare(raw, tmp_path / "out")


def test_look_alikes_across_given_splits_are_reported(tmp_path, capsys):
    for k, subset in enumerate(("train", "val", "test")):
        for number in range(2):
            write_png(tmp_path / "raw" / subset / "MPP" / f"{number}.png", 10 * k + number)
    rgb = write_png(tmp_path / "again.png", 0)
    nearly = np.clip(rgb.astype(int) + 3, 0, 255).astype(np.uint8)
    (tmp_path / "raw/test/MPP/9.png").write_bytes(
        imagecodecs.png_encode(np.ascontiguousarray(nearly))
    )
    prepare(tmp_path / "raw", tmp_path / "out")
    assert "Caution: 1 images look like one in another given subset" in capsys.readouterr().out


def test_groups(raw, tmp_path):
    for path in [raw / "MPP/a.tif", raw / "MPP/b c.png"]:
        path.unlink()
    images = prepare(raw, tmp_path / "out", group="folder2")
    assert set(images["group"]) == {"day0", "day1"}
    with pytest.raises(ValueError, match=r"LT-HSC has 5 .* in 2 independent"):
        prepare(raw, tmp_path / "out", keep_groups_whole=True)
    images = prepare(raw, tmp_path / "out", keep_groups_whole=True, fractions=(0.6, 0, 0.4))
    assert len(images[["group", "split"]].drop_duplicates()) == 2
    with pytest.raises(ValueError, match="group is 'week'"):
        prepare(raw, tmp_path / "out", group="week")


def test_class_names(raw, tmp_path):
    images = prepare(
        raw, tmp_path / "out", class_names=["LT-HSC", "blurred"], small_classes="train"
    )
    assert set(images["class"]) == {"LT-HSC", "blurred"}
    assert images.set_index("class").loc["blurred", "split"] == "train"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("LT_HSC", "LT-HSC"),
        ("lthsc", "LT-HSC"),
        ("LT", "LT-HSC"),
        ("lt hscs", "LT-HSC"),
        ("ST-HSCs", "ST-HSC"),
        ("Short-Term", "ST-HSC"),
        ("mpp", "MPP"),
        ("MPPs", "MPP"),
        ("LTX", None),
        ("HSC", None),
    ],
)
def test_usual_spellings(folder, expected):
    assert sources.known_classes([folder, "MPP"]).get(folder) == expected


def test_image_ids_are_unique_and_safe():
    paths = ["a/x.tif", "a/x.png", "a/y z.oir", "b/Ä.oir", "c/" + "n" * 300 + ".oir"]
    ids = sources.image_ids(paths)
    assert len(set(ids)) == 5
    assert ids[2] == "a__y-z"
    assert all(name.isascii() and len(name) < 200 and "/" not in name for name in ids)


def test_companions_of_large_files_are_no_inputs(raw):
    (raw / "MPP/day0/f0_00001").write_bytes(b"more pixels")
    assert not sources.list_sources(raw)["source"].str.contains("00001").any()


def test_linked_folders_are_followed_once(raw, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("LT-HSC", "st_hsc", "MPP"):
        (linked / name).symlink_to(raw / name)
    (raw / "MPP/loop").symlink_to(raw / "MPP")
    (raw / "MPP/gone.oir").symlink_to(tmp_path / "nowhere.oir")
    found = sources.list_sources(linked)
    assert len(found) == 21
    reasons = found.set_index("source")["reason"]
    assert "link to one that does not exist" in reasons["MPP/gone.oir"]


def test_bad_places_give_one_clear_sentence(raw, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone \(parameter raw_dir\) does not exist"):
        prepare(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.oir, \.tif or \.png"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match=r"Class CMP .* has no folder with files"):
        prepare(raw, tmp_path / "out", class_names=["MPP", "CMP"])
    for path in (raw / "LT-HSC").rglob("*.oir"):
        path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"All 5 files of class LT-HSC were refused.*neither OIR"):
        prepare(raw, tmp_path / "out")
    assert len(manifest.read_rejected(tmp_path / "out")) == 9
    for path in (raw / "LT-HSC").rglob("*.oir"):
        path.unlink()
    with pytest.raises(ValueError, match=r"class folder .*LT-HSC holds no"):
        prepare(raw, tmp_path / "out")


def test_nothing_usable_is_said_so(tmp_path):
    (tmp_path / "raw/MPP").mkdir(parents=True)
    (tmp_path / "raw/MPP/a.oir").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"All 1 files of class MPP were refused.*neither OIR"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_resizing(raw, tmp_path):
    images = prepare(raw, tmp_path / "out", settings=ImageSettings(size=32))
    assert set(images["height"]) == {32}
    assert images.loc[images["pixel_size_um"].notna(), "pixel_size_um"].unique() == [1.0]
    rejected = manifest.read_rejected(tmp_path / "out").set_index("source")["reason"]
    assert "64 × 48 pixels, not square" in rejected["MPP/a.tif"]


def test_settings_are_checked(raw, tmp_path):
    with pytest.raises(ValueError, match="to_8_bit is 'auto'") as error:
        prepare(raw, tmp_path / "out", settings=ImageSettings(to_8_bit="auto"))
    assert not isinstance(error.value, AcquisitionError)


def test_figures_and_intensities(raw, tmp_path):
    images = prepare(raw, tmp_path / "out")
    sample = manifest.sample_images(images, 6)
    assert set(sample["class"]) == {"LT-HSC", "ST-HSC", "MPP"}
    table = histograms(sample, raw, tmp_path / "out")
    shares = table.groupby(["image_id", "stage", "channel"])["share"].sum()
    assert np.allclose(shares, 1)
    figures.intensity_histograms(table, "class", "note")
    figures.split_bars(manifest.count_by_class(images, "split"))
    bright = brightness_by_class(images)
    assert bright.filter(like="AUROC").ge(0.5).all(axis=None)
    one = read_acquisition(raw / images["source"].iloc[0])
    figures.slices({"a": (one, compose_rgb(one))})
    figures.contact_sheet({"a": [compose_rgb(one)] * 2, "b": [compose_rgb(one)]}, "note")
