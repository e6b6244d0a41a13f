"""Removing coordinates equals hiding them in random networks.

Thousands of them: ``python -m tests.dims.test_random 2000``.
"""

import sys
import traceback
from pathlib import Path

import jax
from hypothesis import given
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "properties")]
import architectures  # noqa: E402
import convnets  # noqa: E402
import random_networks  # noqa: E402
from removing import check_wide  # noqa: E402

seeds = st.integers(0, 2**20)


@given(seeds)
def test_removing_is_hiding_in_random_networks(seed):
    apply, params, x, _ = random_networks.make(seed)
    check_wide(apply, params, (x,), seed)


@given(architectures.architectures(most=3), seeds)
def test_removing_is_hiding_in_dense_networks(planted, seed):
    check_wide(planted.apply_fn, planted.params, (planted.x[:3],), seed)


@given(convnets.plans, seeds)
def test_removing_is_hiding_in_convolutional_networks(plan, seed):
    apply, params, x = convnets.build(plan)
    check_wide(apply, params, (x,), seed)


def many(count: int, first: int = 0) -> list[int]:
    """Checks so many random networks; returns the seeds that failed, and prints why."""
    failed, sites = [], 0
    for seed in range(first, first + count):
        apply, params, x, names = random_networks.make(seed)
        try:
            sites += check_wide(apply, params, (x,), seed)
        except Exception:
            failed.append(seed)
            print(seed, names, traceback.format_exc(limit=-2), flush=True)
        if (seed + 1 - first) % 25 == 0:
            print(f"{seed + 1 - first} networks, {sites} sites, {len(failed)} failed", flush=True)
            jax.clear_caches()
    return failed


if __name__ == "__main__":
    many(*map(int, sys.argv[1:]))
