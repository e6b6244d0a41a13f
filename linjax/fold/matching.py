"""Whether parameters are those that evidence was collected on, or what a fold made of these."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.chains.check import check_leaves
from linjax.chains.flow import all_flows
from linjax.dims.leaves import check, check_widths
from linjax.errors import EvidenceError, StructureError, warn
from linjax.evidence.bounds import Bounds, fingerprint
from linjax.evidence.moved import sketch
from linjax.evidence.stats import Stats
from linjax.program import pytree
from linjax.program.count import count


def matching(params: Any, evidence: Stats | Bounds) -> bool:
    """Whether parameters have the shapes that evidence was collected on.

    False, with a warning, if they have been folded since: then there is nothing to do.

    Raises:
      StructureError: if they belong to another network, or lack leaves that no fold removed.
      EvidenceError: if the evidence was collected on parameters folded further.
    """
    pytree.check_arrays(pytree.flatten(params))
    if isinstance(evidence, Bounds) and evidence.fingerprint == fingerprint(params):
        return True
    if isinstance(evidence, Stats):
        check(evidence.network, evidence.network.flatten(params))
        _all_there(params, evidence)
    else:
        flat = evidence.flatten(params)
        check_leaves(evidence.graph, flat)
        all_flows(evidence.graph, flat)
    now = {path: tuple(jnp.shape(leaf)) for path, leaf in pytree.flatten(params).items()}
    if now == {leaf.path: leaf.shape for leaf in evidence.leaves}:
        return True
    leaves = [leaf for leaf in evidence.leaves if pytree.is_floating(leaf.dtype)]
    had = sum(math.prod(leaf.shape) for leaf in leaves)
    if count(params) > had:
        raise EvidenceError(
            f"the evidence was collected on folded parameters ({had:,}), these have "
            f"{count(params):,}: collect on these"
        )
    if isinstance(evidence, Stats):
        check_widths(evidence.network, evidence.network.flatten(params))
    warn(
        "these parameters have been folded since the evidence was collected; they are returned "
        "unchanged (collect again to fold further)"
    )
    return False


def _all_there(params: Any, stats: Stats) -> None:
    """Checks that leaves which are missing were removed by a fold, which changes what is beside.

    Raises:
      StructureError: naming one of them.
    """
    paths = sorted(leaf.path for leaf in stats.leaves)
    flat = pytree.flatten(params)
    gone = [path for path in paths if path not in flat]
    if not gone or flat.keys() - set(paths) or len(stats.sketch) != len(paths):
        return
    then = dict(zip(paths, stats.sketch, strict=True))
    now = zip(sorted(flat), sketch(params), strict=True)
    if all(np.array_equal(own, then[path], equal_nan=True) for path, own in now):
        raise StructureError(
            f"{pytree.join(gone[0])}: missing, and all that is there is as it was when the "
            "evidence was collected: no fold has removed it"
        )
