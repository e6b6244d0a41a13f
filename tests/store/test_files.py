"""A save is there as a whole or not at all, and never in place of something else."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import linjax
from linjax.store import tensors
from tests.store import networks

ROOT = Path(linjax.__file__).parents[1]
KILLED = """
import os, pathlib, sys
from linjax.store import files

def killed(file):
    file.write(b"new" * 100_000)
    os._exit(9)

files.replace(pathlib.Path(sys.argv[1]), killed)
"""


@pytest.fixture
def place(tmp_path):
    """A folder with one save in it, and another network to save there."""
    net, params, _ = networks.network()
    path = tmp_path / "net"
    linjax.save(path, net, params)
    return path, net, networks.narrowed(params, 5)


def test_a_save_replaces_a_save(place):
    path, net, small = place
    linjax.save(path, net, small)
    assert linjax.count(linjax.load(path)[1]) == linjax.count(small)
    assert os.listdir(path.parent) == ["net"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_crash_at_any_step_leaves_the_old_one_whole(place, monkeypatch, step):
    path, net, small = place
    before = path.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    def crash_halfway(file, arrays, metadata):
        file.write(b"half of")
        raise KeyboardInterrupt

    if step == "write":
        monkeypatch.setattr(tensors, "write", crash_halfway)
    else:
        monkeypatch.setattr(os, step, crash)
    with pytest.raises(KeyboardInterrupt):
        linjax.save(path, net, small)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["net"]


def test_a_killed_process_leaves_the_old_one_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    finished = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, timeout=120)
    assert finished.returncode == 9
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_told_and_leaves_nothing(place, monkeypatch):
    path, net, small = place

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(linjax.StoreError, match="No space left"):
        linjax.save(path, net, small)
    assert os.listdir(path.parent) == ["net"]


def test_nothing_else_is_overwritten(place, tmp_path):
    path, net, small = place
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    whole = path.read_bytes()
    (tmp_path / "other").write_bytes(whole.replace(b'"format":"linjax"', b'"format":"others"'))
    for name, reason in (
        ("notes.txt", "isn't a save of linjax"),
        ("other", "isn't a save of linjax"),
        ("link", "symbolic link"),
        ("folder", "directory|regular file"),
        ("nowhere/net", "No such file"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(linjax.StoreError, match=reason):
            linjax.save(tmp_path / name, net, small)
    assert foreign.read_text() == "mine"
    assert path.read_bytes() == whole


def test_only_regular_files_are_read(place, tmp_path):
    path, _, _ = place
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it to read would wait for ever
    (tmp_path / "empty").touch()
    for name in ("link", "loop", "folder", "pipe", "empty", "nowhere", "x" * 300, "a\0b"):
        with pytest.raises(linjax.StoreError):
            linjax.load(tmp_path / name)


def test_what_cannot_be_stored_is_refused_by_name(tmp_path):
    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    params = {"w": jnp.ones((2, 2)), "half": jnp.ones(3, jnp.int4)}
    net = linjax.trace(apply, params, jnp.ones((1, 2)))
    with pytest.raises(linjax.StoreError, match="half: dtype int4"):
        linjax.save(tmp_path / "net", net, params)
    with pytest.raises(linjax.StructureError, match="missing"):
        linjax.save(tmp_path / "net", net, {"w": params["w"]})
    plain = linjax.trace(apply, {"w": params["w"]}, jnp.ones((1, 2)))
    linjax.save(tmp_path / "net", plain, {"w": params["w"]})
    stored, loaded = linjax.load(tmp_path / "net")
    with pytest.raises(linjax.StoreError, match="apply_fn"):
        linjax.save(tmp_path / "net", stored, loaded)
