"""Threads of the host's linear algebra."""

import contextlib
from collections.abc import Iterator

import threadpoolctl


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs the host's BLAS on one thread.

    Folding is a long run of small factorisations. Their threads wait for each other by
    spinning: on two busy cores a fold of a small network took 14 times as long with two
    threads as with one, and which is chosen must not depend on the machine's load.

    Only libraries that are loaded by now are limited: SciPy brings a BLAS of its own with its
    linear algebra, which folding imports where it is needed.
    """
    import scipy.linalg  # noqa: F401

    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield
