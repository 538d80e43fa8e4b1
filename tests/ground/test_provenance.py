"""Writing files so that an interruption leaves nothing torn, and recording what made them."""

import json

import pandas as pd
import pytest

from hsc_utils import files, provenance, study


def test_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "table.csv"
    files.write_csv(target, pd.DataFrame({"a": [1]}))
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "a\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_provenance_names_inputs_by_hash(tmp_path):
    source = tmp_path / "input.bin"
    source.write_bytes(b"abc")
    provenance.write_provenance(
        tmp_path, parameters={"seed": 3}, inputs=[source], seconds=1.234, weights="none"
    )
    record = json.loads((tmp_path / "provenance.json").read_text())
    # The digest of "abc" is FIPS 180-2's first example.
    assert list(record["inputs"].values()) == [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    ]
    assert record["parameters"] == {"seed": 3}
    assert record["weights"] == "none"
    assert record["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(record), (
        "provenance must not name this machine's folders"
    )


def test_shown_path_hides_the_machine(tmp_path):
    assert files.shown_path("results/demo/a.csv") == "results/demo/a.csv"
    assert files.shown_path(files.ROOT / "data") == "data"
    assert str(tmp_path.parent) not in files.shown_path(tmp_path / "x" / "y.png")


@pytest.mark.parametrize(
    ("channels", "name"),
    [((0, 1, 2), "resnet50"), ((0,), "resnet50-slice0"), ([0, 2], "resnet50-slice0+2")],
)
def test_run_directory(tmp_path, channels, name):
    path = study.run_directory(tmp_path, "resnet50", 7, channels)
    assert path == tmp_path / name / "seed7"


def test_simulated_data_are_labelled():
    simulated = pd.DataFrame({"simulated": [False, True]})
    assert "imulated" in provenance.data_note(simulated)
    assert provenance.data_note(simulated[:1]) == ""
    assert "imulated" in provenance.header(dataset="demo", simulated=True).data
    assert "imulated" not in provenance.header(dataset="mine", simulated=False).data


def test_written_files_counts_and_complains(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1_000_000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.bin").write_bytes(bytes(500_000))
    table = provenance.written_files(tmp_path / "a.bin", tmp_path / "folder")
    assert list(table["megabytes"]) == [1.0, 0.5]
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        provenance.written_files(tmp_path / "missing.csv")
