"""What a run ran on: kept beside its results, and shown in reports."""

import datetime
import os
import platform
from importlib import metadata

import jax

import linjax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions of what figures depend on, the device, and the date."""
    return {
        "linjax": linjax.__version__,
        **{name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} × {jax.device_count()}",
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
