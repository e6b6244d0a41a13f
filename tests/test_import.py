"""Importing the library is quick, touches no device and brings no framework with it."""

import contextlib
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import jax
import numpy as np
import pytest

import linjax

ROOT = Path(linjax.__file__).parents[1]
LATER = ("flax", "optax", "orbax", "rich", "scipy.linalg", "onnxruntime", "highspy")
TIMED = """
import time, jax
start = time.process_time()
import linjax, linjax.cli
print(time.process_time() - start)
"""


def fresh(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_device_is_touched():
    """There is no platform of this name: whatever asked for a device would fail."""
    fresh("import linjax, linjax.cli; linjax.from_nnx", JAX_PLATFORMS="nowhere")


def test_frameworks_are_imported_when_they_are_needed():
    code = f"import sys, linjax, linjax.cli; print([m for m in {LATER} if m in sys.modules])"
    assert fresh(code).strip() == "[]"


def test_importing_is_quick():
    """Seconds of processor time beyond JAX's own: 0.13 on an idle machine, 0.25 on a busy one."""
    kept = {"PYTHONDONTWRITEBYTECODE": ""}  # else the compiler of Python's own is what is timed
    assert min(float(fresh(TIMED, **kept)) for _ in range(3)) < 0.4


def test_every_public_name_is_there():
    assert sorted(linjax.__all__) == linjax.__all__
    for name in linjax.__all__:
        assert getattr(linjax, name).__doc__, name
    assert not hasattr(linjax, "nothing")


PUBLIC = {
    name: list(inspect.signature(getattr(linjax, name)).parameters.values())
    for name in linjax.__all__
    if inspect.isfunction(getattr(linjax, name))
}


def test_arguments_come_in_one_order():
    """The network, its parameters, those made of them, then what is known or asked for."""
    order = ("net", "params", "small", "evidence", "stats", "bounds", "batches", "rule")
    for name, parameters in PUBLIC.items():
        given = [p.name for p in parameters if p.kind != p.KEYWORD_ONLY and p.name in order]
        assert given == sorted(given, key=order.index), name


def test_what_is_returned_depends_on_no_flag():
    """The one that did is deprecated."""
    flagged = [name for name, own in PUBLIC.items() if any(p.name == "details" for p in own)]
    assert flagged == ["fold"]
    params, x = {"in": np.ones((2, 6), np.float32), "out": np.ones((6, 2), np.float32)}, np.eye(2)
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, x)
    stats = linjax.collect(net, params, [x])
    with pytest.warns(DeprecationWarning, match="fold_and_report"):
        found = linjax.fold(params, stats, linjax.size(0.5), details=True)
    assert found._fields[0] == "params"
    for name in ("fold", "lump"):
        with_report = getattr(linjax, f"{name}_and_report").__annotations__["return"]
        assert with_report._fields[0] == "params", name


def test_a_layer_has_one_word_for_its_residual_path():
    change = linjax.SiteChange(4, np.arange(2), 1, True)
    with pytest.warns(DeprecationWarning, match="residual"):
        assert change.carry is change.residual is True


def test_names_that_were_still_work():
    plan = linjax.Plan(linjax.State((1,), (0,), (0,)), 1.0, 0.1, 1e-3)
    with pytest.warns(DeprecationWarning, match="shrinkage"):
        assert plan.ridge == plan.shrinkage == 1e-3
    with pytest.raises(TypeError), pytest.warns(DeprecationWarning, match="small="):
        linjax.carry_over(folded={})


def test_public_names_are_in_the_reference():
    text = (ROOT / "docs" / "reference" / "index.md").read_text()
    told = set(re.findall(r"^::: linjax\.(\S+)$", text, re.MULTILINE))
    modules = ("baselines", "checkpoint", "penalties")
    names = set(linjax.__all__) - set(modules)
    names |= {f"{m}.{name}" for m in modules[:2] for name in getattr(linjax, m).__all__}
    assert told == names | {"penalties"}


def types_in(annotation):
    """The types that an annotation is made of, those in containers and unions too."""
    if isinstance(annotation, list):  # what a callable takes
        return set().union(*map(types_in, annotation))
    inside = typing.get_args(annotation)
    return set().union(*map(types_in, inside)) if inside else {annotation}


OWN = {
    "Choice", "Computed", "Curve", "Errors", "Leaf", "PointMoments", "Prices", "Problems",
    "Proofs", "View", "Written",
}  # fmt: skip
"""What evidence and frontiers are made of: passed on, and read by nobody else."""
DESCRIPTIONS = (linjax.Graph, linjax.Manifest, linjax.Network, linjax.Site)
"""What a network is in all detail: public as wholes."""


def test_types_that_public_names_give_are_public():
    """Of what functions take and return, of fields, and of methods."""
    public = [getattr(linjax, name) for name in linjax.__all__]
    classes = [own for own in public if inspect.isclass(own) and own not in DESCRIPTIONS]
    functions = [own for own in public if inspect.isfunction(own)]
    functions += [
        member.fget if isinstance(member, property) else member
        for own in classes for name, member in vars(own).items()
        if own.__module__.startswith("linjax") and not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
    ]  # fmt: skip
    met = set()
    for own in (*classes, *functions):
        with contextlib.suppress(NameError):  # imported where it is needed
            met |= set().union(*map(types_in, typing.get_type_hints(own).values()))
    own = {t for t in met if inspect.isclass(t) and t.__module__.startswith("linjax.")}
    assert len(own) > 30
    assert {t.__name__ for t in own - {*classes, *DESCRIPTIONS}} == OWN


@pytest.mark.parametrize("owner", ["Bounds", "Recoverability", "Report", "Scores"])
def test_types_that_results_hold_by_site_are_public(owner):
    known = [getattr(linjax, name) for name in linjax.__all__]
    own = types_in(typing.get_type_hints(getattr(linjax, owner))["sites"]) - {str, ...}
    assert own and all(any(t is public for public in known) for t in own)
