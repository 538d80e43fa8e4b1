"""Writing files so that an interruption leaves nothing torn, and recording what made them."""

import errno
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from hsc_utils import files, provenance


def test_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "table.csv"
    files.write_csv(target, pd.DataFrame({"a": [1]}))
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "a\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_file_lies_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Otherwise a power loss after the rename leaves an empty file under the right name."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda stream: flushed.append(os.fstat(stream).st_size))
    with files.atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"12345")
    assert flushed == [5]
    monkeypatch.setattr(os, "fsync", lambda stream: exec("raise OSError(errno.ENOSPC, '')"))
    with pytest.raises(OSError, match="is full"):
        files.write_json(tmp_path / "a.bin", {})
    assert (tmp_path / "a.bin").read_bytes() == b"12345"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for target in (tmp_path / "taken" / "a.json", tmp_path / "taken" / "deeper" / "a.json"):
        with pytest.raises(OSError, match=r"taken.* cannot be written"):
            files.write_json(target, {})
    with pytest.raises(OSError, match="change its rights"), files.full_disk_explained(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".a.part"))


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


def test_a_machine_without_a_notebook_can_train_and_record(tmp_path, monkeypatch):
    """Such as one that is lent with a GPU: nothing of IPython is imported, nor need be there."""
    known = provenance.metadata.version

    def version(package):
        if package == "papermill":
            raise provenance.metadata.PackageNotFoundError(package)
        return known(package)

    monkeypatch.setattr(provenance.metadata, "version", version)
    provenance.write_provenance(tmp_path, parameters={}, seconds=0)
    versions = json.loads((tmp_path / "provenance.json").read_text())["versions"]
    assert versions["papermill"] == "not installed" and versions["torch"] == known("torch")
    code = "import sys; sys.modules['IPython'] = None; import hsc_utils.provenance"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shown_path_hides_the_machine(tmp_path):
    assert files.shown_path("results/demo/a.csv") == "results/demo/a.csv"
    assert files.shown_path(files.ROOT / "data") == "data"
    assert str(tmp_path.parent) not in files.shown_path(tmp_path / "x" / "y.png")
    # a name in Latin-1 can be printed
    odd = files.shown_path(os.fsdecode(b"raw/K\xf6rper {1}.png"))
    assert odd.encode() == rb"raw/K\xf6rper {1}.png"


def test_a_path_from_the_caller_is_named_from_the_root_where_it_lies_inside(monkeypatch, tmp_path):
    monkeypatch.chdir(files.ROOT / "data")
    assert files.from_caller("../results/a b") == "results/a b"
    assert files.from_caller(files.ROOT / "book") == "book"
    monkeypatch.chdir(tmp_path)
    assert files.from_caller("x") == str(tmp_path / "x")


def test_code_digest_sees_what_code_does_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    room = tmp_path / "hsc_utils" / "step" / "room.py"
    room.parent.mkdir(parents=True)

    def digest_of(*lines: str) -> str:
        room.write_text("\n".join(lines))
        return provenance.code_digest("step.room")

    plain = digest_of("def add(a, b):", "    return a + b")
    told = digest_of('"""Text."""', "def add(a, b):", '    """Add."""', "    return (a + b)  # why")
    assert told == plain
    assert digest_of("def add(a, b):", "    return a - b") != plain
    assert digest_of("def add(a, b):", "    return a + b", "add(1, 2)") != plain


def test_the_name_of_the_data_set_comes_from_the_first_folder_that_was_told(tmp_path):
    for name, record in {"a": {}, "b": {"dataset": "mine"}}.items():
        (tmp_path / name).mkdir()
        provenance.write_provenance(tmp_path / name, parameters={}, seconds=0, **record)
    folders = [tmp_path / name for name in ("none", "a", "b")]
    assert provenance.dataset_name(*folders) == "mine"
    assert provenance.dataset_name(tmp_path / "a") == "unnamed data"
    (tmp_path / "a" / "provenance.json").write_text('{"dataset": "mi')
    assert "a/provenance.json is damaged" in provenance.dataset_name(tmp_path / "a")


def test_simulated_data_are_labelled():
    simulated = pd.DataFrame({"simulated": [False, True]})
    assert "imulated" in provenance.data_note(simulated)
    assert provenance.data_note(simulated[:1]) == ""
