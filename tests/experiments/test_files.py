import numpy as np
import pytest

from experiments import files, journal


def test_write_replaces_and_leaves_no_draft(tmp_path):
    path = tmp_path / "deep" / "file"
    files.write(path, b"old")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, b"old")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_tree_comes_back(tmp_path):
    tree = {"a": np.arange(3, dtype=np.float32), "b": (np.int32(4), np.ones((2, 2)))}
    files.write_tree(tmp_path / "tree.npz", tree)
    back = files.read_tree(tmp_path / "tree.npz", tree)
    np.testing.assert_array_equal(back["a"], tree["a"])
    np.testing.assert_array_equal(back["b"][1], tree["b"][1])
    assert back["b"][0].dtype == np.int32


@pytest.mark.parametrize("other", [{"a": np.ones(4)}, {"a": np.ones(3), "b": 1}, {}])
def test_another_tree_is_refused(tmp_path, other):
    files.write_tree(tmp_path / "tree.npz", {"a": np.ones(3)})
    with pytest.raises(ValueError, match="another network"):
        files.read_tree(tmp_path / "tree.npz", other)


def test_rows_are_appended_and_found(tmp_path):
    path = tmp_path / "results.jsonl"
    assert journal.lines(path) == [] == journal.read(tmp_path)
    own = journal.Journal(tmp_path)
    for amount in (0.1, 0.2, 0.2):
        own.append({"task": {}, "rule": "size", "amount": amount})
    assert [row["amount"] for row in journal.lines(path)] == [0.1, 0.2]
    wanted = [("size", 0.2), ("threshold", 0.2)]
    assert own.missing({}, wanted) == [("original", 1.0), ("threshold", 0.2)]
    assert journal.Journal(tmp_path).done == own.done


def test_an_unfinished_row_is_cut_off(tmp_path):
    path = tmp_path / "results.jsonl"
    journal.append(path, {"rule": "size", "amount": 0.1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"rule": "si')
    assert len(journal.lines(path)) == 1
    journal.append(path, {"rule": "size", "amount": 0.2})
    assert path.read_bytes() == whole + b'{"rule": "size", "amount": 0.2}\n'
