"""What notebook 08 says: tables made of predictions whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from hsc_utils import new_images
from hsc_utils.new_images import report

NAMES = ["A", "B"]


def table(truth, probability_of_a, **columns):
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(len(truth))],
            "class": list(truth),
            "group": "",
            "p_A": probability_of_a,
            "p_B": 1 - np.asarray(probability_of_a),
            "warnings": "",
            "known_file": "",
            "differences": 0,
            **columns,
        }
    )


def test_coverage_counts_what_is_called_and_right():
    internal = table("AABB", [0.95, 0.75, 0.65, 0.05])
    found = report.coverage(internal, NAMES, 0.82).set_index("confidence")
    assert found.loc[0.0, ["called", "accuracy"]].tolist() == [4, 0.75]
    assert found.loc[0.7, ["called", "accuracy"]].tolist() == [3, 1.0]
    assert found.loc[0.82, "called"] == found.loc[0.95, "called"] == 2
    assert found.loc[0.99, "called"] == 0
    assert np.isnan(found.loc[0.99, "accuracy"])
    assert (found["low"].dropna() <= found["accuracy"].dropna()).all()


def test_files_of_the_study_are_no_external_test():
    internal = table("AABB" * 5, np.tile([0.9, 0.6, 0.4, 0.1], 5))
    new = table("AB", [0.2, 0.2], known_file=["a file of the study, in its subset train", ""])
    found = report.scores_side_by_side(new, internal, NAMES)
    assert found.loc["images", "these new images"] == "1"
    assert report.scores_side_by_side(new.assign(**{"class": ""}), internal, NAMES).empty


def test_the_studys_own_images_are_predicted_alike(paths, runs):
    members = new_images.load_members(runs)
    internal = new_images.internal_predictions(members)
    columns = [f"p_{name}" for name in members[0].passport["class_names"]]
    np.testing.assert_allclose(internal[columns].sum(axis=1), 1)
    tested = members[0].run.predictions.query("split == 'test'")["image_id"]
    assert set(internal["image_id"]) == set(tested)


def test_cells_are_cut_out_again_for_the_eye(paths, runs, predicted):
    known = new_images.load_members(runs)[0].passport
    cells, _, _ = new_images.read_tables(predicted)
    predictions = pd.read_csv(predicted / "predictions.csv")
    chosen = new_images.surest_and_least_sure(cells)
    pictures = new_images.cell_pictures(known, paths.new_day / "raw", predictions, chosen)
    assert pictures.shape == (len(chosen), 48, 48, 3)
    assert (pictures.std(axis=(1, 2, 3)) > 0).all()
    assert chosen["confidence"].max() == cells["confidence"].max()
    assert chosen["confidence"].min() == cells["confidence"].min()


@pytest.mark.parametrize(("warned", "loud"), [(0, False), (1, False), (3, True)])
def test_the_sentence_is_loud_where_most_images_differ(warned, loud):
    new = table("AAAA", [0.9] * 4, called=["A", "A", "A", "undecided"])
    new["differences"] = [2] * warned + [0] * (4 - warned)
    said = " ".join(report.sentences(new, pd.DataFrame({"source": ["x"]}), 0.8))
    assert "Of 5 files, 4 could be read" in said
    assert "called for 3 (3 × A); 1 stays undecided" in said
    assert ("read no probability here as the truth" in said) == loud
