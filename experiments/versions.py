"""What a run ran on: kept beside its results, and shown in reports."""

import datetime
import os
import platform

import flax
import jax
import jaxlib
import numpy as np
import optax

import linjax


def versions() -> dict[str, str]:
    """Versions of what figures depend on, the device, and the date."""
    return {
        "linjax": linjax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} × {jax.device_count()}",
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
