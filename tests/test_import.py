"""Importing the library is quick, touches no device and brings no framework with it."""

import os
import subprocess
import sys
from pathlib import Path

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
    assert min(float(fresh(TIMED)) for _ in range(3)) < 0.4


def test_every_public_name_is_there():
    assert sorted(linjax.__all__) == linjax.__all__
    for name in linjax.__all__:
        assert getattr(linjax, name).__doc__, name
    assert not hasattr(linjax, "nothing")
