"""The real data set is stored only where each picture has the pixels expected."""

import functools
import http.server
import io
import os
import threading

import fetch_leukocytes as leukocytes
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hsc_utils.files import ROOT

CLASSES = ("neutrophil", "eosinophil", "neutrophil")


def pictures(number):
    """Make the image and the mask of one leukocyte of the tests."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)
    return image, rng.choice(np.array([0, 128, 255], np.uint8), (12, 10))


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A list of three leukocytes in the place of the 300."""
    rows = [
        (number, name, *map(leukocytes.digest, pictures(number)))
        for number, name in enumerate(CLASSES, 1)
    ]
    table = pd.DataFrame(rows, columns=["number", "class", "image_sha256", "mask_sha256"])
    table.to_csv(tmp_path / "list.csv", index=False)
    monkeypatch.setattr(leukocytes, "LIST", tmp_path / "list.csv")
    monkeypatch.delenv("HSC_TEST_DATA", raising=False)
    return table


@pytest.fixture
def original(tmp_path):
    """A folder that lies as the public repository does."""
    folder = tmp_path / "segmentation_WBC"
    (folder / "Dataset 1").mkdir(parents=True)
    for number in (1, 2, 3):
        image, mask = map(Image.fromarray, pictures(number))
        image.save(folder / "Dataset 1" / f"{number:03d}.bmp")
        mask.save(folder / "Dataset 1" / f"{number:03d}.png")
    (folder / leukocytes.LABELS).write_text("image ID,class label\n1,1\n2,4\n3,1\n")
    return folder


def check_stored(target):
    for number, name in enumerate(CLASSES, 1):
        image, mask = pictures(number)
        stored = Image.open(target / "cells" / name / f"{number:03d}.png")
        assert np.array_equal(np.asarray(stored), image)
        assert np.array_equal(np.asarray(Image.open(target / "masks" / f"{number:03d}.png")), mask)
    assert len(list(target.rglob("*.png"))) == 6


# the list


def test_the_list_is_of_300_leukocytes_in_five_classes():
    table = pd.read_csv(ROOT / "data" / "leukocytes.csv")
    assert table["number"].tolist() == list(range(1, 301))
    counts = {"neutrophil": 176, "lymphocyte": 53, "monocyte": 48, "eosinophil": 22, "basophil": 1}
    assert table["class"].value_counts().to_dict() == counts
    assert table[["image_sha256", "mask_sha256"]].map(len).eq(64).all(axis=None)


@pytest.mark.skipif("HSC_TEST_DATA" not in os.environ, reason="HSC_TEST_DATA is not set")
def test_the_list_is_that_of_the_copy_for_tests(tmp_path, capsys):
    leukocytes.fetch(None, tmp_path)
    assert len(list((tmp_path / "cells").rglob("*.png"))) == 300
    assert len(list((tmp_path / "masks").iterdir())) == 300
    said = capsys.readouterr().out
    assert "Licence: GPL-3.0" in said and "Micron 107" in said


# from a folder


def test_the_original_folder_and_a_sorted_one_give_the_same_pictures(
    listed, original, tmp_path, monkeypatch
):
    first, copy = tmp_path / "first", tmp_path / "real" / "cells"
    leukocytes.fetch(str(original), first)
    check_stored(first)
    copy.mkdir(parents=True)
    (first / "cells").rename(copy / "white_blood_cells")
    (first / "masks").rename(copy / "white_blood_cells_masks")
    monkeypatch.setenv("HSC_TEST_DATA", str(tmp_path / "real"))
    leukocytes.fetch(None, tmp_path / "second")
    check_stored(tmp_path / "second")


def test_other_pixels_are_refused_and_not_stored(listed, original, tmp_path):
    image, _ = pictures(2)
    image[3, 4, 1] ^= 1
    Image.fromarray(image).save(original / "Dataset 1" / "002.bmp")
    with pytest.raises(leukocytes.LeukocyteError, match="image of leukocyte 2 has other pixels"):
        leukocytes.fetch(str(original), tmp_path / "made")
    assert not (tmp_path / "made" / "cells" / "eosinophil" / "002.png").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "Dataset 1" / "003.png").write_bytes(b"no"), "mask of leukocyte"),
        (lambda folder: (folder / "Dataset 1" / "003.bmp").unlink(), "003.bmp cannot be read: No"),
        (lambda folder: (folder / leukocytes.LABELS).unlink(), "Dataset 1.csv cannot be read"),
        (
            lambda folder: (folder / leukocytes.LABELS).write_text("image ID,class label\n1,2\n"),
            "gives other classes than",
        ),
        (lambda folder: (folder / "Dataset 1").rename(folder / "x"), "holds neither 'Dataset 1'"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(listed, original, tmp_path, spoil, said):
    spoil(original)
    with pytest.raises(leukocytes.LeukocyteError, match=said):
        leukocytes.fetch(str(original), tmp_path / "made")


# from the network


@pytest.fixture
def server(original, monkeypatch):
    """A server of the original folder; `asked` lists the paths, `spoil` changes an answer."""
    asked, spoil = [], {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.path = self.path.removeprefix(f"/{leukocytes.COMMIT}")
            content = spoil.get(self.path)
            if content is None:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (b"cut" in content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    folder = functools.partial(Handler, directory=str(original))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), folder) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(leukocytes, "ADDRESS", f"http://127.0.0.1:{running.server_port}")
        yield asked, spoil
        running.shutdown()


def test_what_is_missing_is_downloaded_once(listed, server, tmp_path, capsys):
    asked, _ = server
    leukocytes.fetch(None, tmp_path / "made")
    check_stored(tmp_path / "made")
    assert len(asked) == 6 and all(path.startswith(f"/{leukocytes.COMMIT}/") for path in asked)
    assert "Licence: GPL-3.0" in (tmp_path / "made" / "SOURCE.txt").read_text()
    leukocytes.fetch(None, tmp_path / "made")
    assert len(asked) == 6
    assert capsys.readouterr().out.count("Licence: GPL-3.0") == 2


@pytest.mark.parametrize("content", ["wrong byte", "cut"])
def test_an_interrupted_or_spoilt_download_goes_on_where_it_stopped(
    listed, server, tmp_path, content, monkeypatch
):
    monkeypatch.setattr(leukocytes, "AT_A_TIME", 1)
    asked, spoil = server
    wrong = pictures(2)[0]
    wrong[0, 0, 0] ^= 1
    stream = io.BytesIO()
    Image.fromarray(wrong).save(stream, format="bmp")
    spoil["/Dataset%201/002.bmp"] = b"cut" if content == "cut" else stream.getvalue()
    said = "could not be fetched" if content == "cut" else "image of leukocyte 2 has other pixels"
    with pytest.raises(leukocytes.LeukocyteError, match=said):
        leukocytes.fetch(None, tmp_path / "made")
    assert (tmp_path / "made" / "cells" / "neutrophil" / "001.png").exists()
    assert not (tmp_path / "made" / "cells" / "eosinophil").exists()
    spoil.clear()
    asked.clear()
    leukocytes.fetch(None, tmp_path / "made")
    check_stored(tmp_path / "made")
    assert not any("001" in path for path in asked)


def test_a_picture_that_was_damaged_later_is_fetched_again(listed, server, tmp_path):
    leukocytes.fetch(None, tmp_path / "made")
    (tmp_path / "made" / "masks" / "003.png").write_bytes(b"")
    leukocytes.fetch(None, tmp_path / "made")
    check_stored(tmp_path / "made")


def test_without_a_network_it_says_what_to_do(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(leukocytes, "ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(leukocytes.LeukocyteError, match="make leukocytes LEUKOCYTES="):
        leukocytes.fetch(None, tmp_path / "made")
