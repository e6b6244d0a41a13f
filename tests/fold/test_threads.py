"""Folding runs the host's linear algebra on one thread, whatever was imported before it."""

import os
import subprocess
import sys

FIRST = """
import linjax
from threadpoolctl import threadpool_info
from linjax.fold.threads import one_thread

with one_thread():
    import scipy.linalg
    print(max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"))
"""


def test_a_first_fold_runs_on_one_thread():
    """SciPy's own BLAS is loaded before threads are limited: in a process that hasn't used it."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
