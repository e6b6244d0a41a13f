"""Damaged and hostile files: always a LinjaxError, never a crash, a hang or much memory."""

import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linjax
from linjax.store.manifest import digest
from tests.store import networks

VALUES = (
    None, True, -1, 0, 1, 2**62, 10**30, 1e308, "", "..", "../../etc/passwd", "float32", "\0",
    [], {}, [[]], {"dict": []}, [2**40, 2**40], {"list": [0, 0]},
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a save, and a place to put others."""
    net, small, _, report = networks.folded()
    path = tmp_path_factory.mktemp("hostile") / "net"
    linjax.save(path, net, small, report=report)
    return path.read_bytes(), path


def taken_apart(whole: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Returns a file's header, manifest and data."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["manifest"]), whole[8 + length :]


def sealed(header: dict[str, Any], manifest: Any, data: bytes) -> bytes:
    """Puts a file together with the right checksum, as an attacker would."""
    text = json.dumps(manifest)
    sha = digest(text, [data])
    own = {"format": "linjax", "manifest": text, "sha256": sha}
    head = json.dumps(header | {"__metadata__": own}).encode()
    return len(head).to_bytes(8, "little") + head + data


def refused(path: Any, damaged: bytes, match: str | None = None) -> None:
    """A file must be refused, by an error of ours, without reading it all into memory."""
    path.write_bytes(damaged)
    tracemalloc.start()
    try:
        with pytest.raises(linjax.LinjaxError, match=match):
            linjax.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def damage(whole: bytes, seed: int) -> bytes:
    """Truncates, flips bits, overwrites, removes, doubles or appends."""
    rng = random.Random(seed)
    at = rng.randrange(len(whole)) if rng.random() < 0.5 else rng.randrange(min(9000, len(whole)))
    span = rng.randrange(1, 40)
    match rng.randrange(6):
        case 0:
            return whole[:at]
        case 1:
            return whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
        case 2:
            return whole[:at] + rng.randbytes(span) + whole[at + span :]
        case 3:
            return whole[:at] + whole[at + span :]
        case 4:
            return whole[:at] + whole[at : at + span] + whole[at:]
    return whole + rng.randbytes(span)


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_accidents(saved, seed):
    whole, path = saved
    damaged = damage(whole, seed)
    if damaged != whole:
        refused(path, damaged)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON tree, as container and key."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    return [
        place
        for key in keys
        for place in [
            (tree, key),
            *(nodes(tree[key]) if isinstance(tree[key], dict | list) else []),
        ]
    ]


@given(st.integers(0, 2**32), st.sampled_from(VALUES), st.booleans())
@settings(max_examples=300)
def test_malice_with_the_right_checksum(saved, seed, value, in_header):
    """Changed descriptions are refused, or change nothing about the arrays."""
    whole, path = saved
    header, manifest, data = taken_apart(whole)
    container, key = random.Random(seed).choice(nodes(header if in_header else manifest))
    container[key] = value
    path.write_bytes(sealed(header, manifest, data))
    try:
        _, params = linjax.load(path)
    except linjax.LinjaxError:
        return
    assert linjax.count(params) == linjax.count(networks.folded()[1])


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_damaged_program_with_the_right_checksum(saved, seed):
    """The program's table is opened by JAX: whatever it stumbles over becomes our error."""
    whole, path = saved
    header, manifest, data = taken_apart(whole)
    start, end = header["linjax/program"]["data_offsets"]
    code = damage(data[start:end], seed)[: end - start].ljust(end - start, b"\0")
    path.write_bytes(sealed(header, manifest, data[:start] + code + data[end:]))
    try:
        linjax.load(path)
    except linjax.LinjaxError:
        return


def change(**edits: Any) -> Any:
    """An edit of the manifest."""
    return lambda header, manifest: manifest.update(edits)


def rename(old: str, new: str) -> Any:
    """An array under another name, in header and manifest."""

    def edit(header: dict[str, Any], manifest: dict[str, Any]) -> None:
        header[new] = header.pop(old)
        for leaf in manifest["leaves"]:
            if "/".join(leaf["path"]) == old:
                leaf["path"] = new.split("/")

    return edit


def reshape(shape: list[int], offsets: bool = False) -> Any:
    """Another shape for one array, in header and manifest."""

    def edit(header: dict[str, Any], manifest: dict[str, Any]) -> None:
        name = next(iter(n for n in header if n not in ("__metadata__", "linjax/program")))
        header[name]["shape"] = shape
        if offsets:
            start = header[name]["data_offsets"][0]
            header[name]["data_offsets"] = [start, start + 4 * shape[0]]
        for leaf in manifest["leaves"]:
            if "/".join(leaf["path"]) == name:
                leaf["shape"] = shape

    return edit


@pytest.mark.parametrize(
    "edit, match",
    [
        (change(schema=2), "newer linjax: schema 2.*upgrade"),
        (change(schema=99, graph=None, more=1), "newer linjax"),
        (change(schema="1"), "no schema version"),
        (change(extra=1), "expected schema"),
        (change(graph=[]), "manifest.graph"),
        (change(leaves=[]), "unexpected"),
        (change(inputs=0), "inputs"),
        (change(containers={"list": [0] * 5}), "containers"),
        (rename("last/w", "../../last"), "not a name"),
        (rename("last/w", "/etc/passwd"), "not a name"),
        (rename("last/w", "C:\\..\\w"), "not a name"),
        (rename("last/w", "last/v"), "last/"),
        (reshape([2**40, 2**40]), "make sense"),
        (reshape([2**40], offsets=True), "begins at byte|bytes, its header"),
        (reshape([0, 10**30]), "make sense"),
        (reshape([-1, 4]), "make sense"),
    ],
)
def test_contradictions(saved, edit, match):
    whole, path = saved
    header, manifest, data = taken_apart(whole)
    edit(header, manifest)
    refused(path, sealed(header, manifest, data), match)


@pytest.mark.parametrize("field, value", [("dtype", "F16"), ("dtype", "PICKLE"), ("shape", [1])])
def test_the_header_says_otherwise(saved, field, value):
    whole, path = saved
    header, manifest, data = taken_apart(whole)
    header["last/w"][field] = value
    refused(path, sealed(header, manifest, data), "last/w")


def test_headers_that_are_bombs(saved):
    _, path = saved
    for text in (
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"null",
        b"\xff\xfe",
        b'"\\ud800"',
    ):
        refused(path, len(text).to_bytes(8, "little") + text)
    refused(path, (2**63).to_bytes(8, "little") + b"{}", "runs past its end")
    refused(path, (99_999_999).to_bytes(8, "little") + b"{}", "runs past its end")
