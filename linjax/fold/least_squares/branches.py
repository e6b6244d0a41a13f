"""Where chains branch: features of a trunk that its branches read, once it has been folded.

Every chain is folded by moments of its own, on the original's features. The first map of a
branch then reads ``h``, the trunk's last activations, of which the folded trunk has the features
``f``; it reads ``h ≈ f R + r`` instead, fitted by least squares. All readers of an activation
are refitted alike: a refit is linear in its target.
"""

from collections.abc import Sequence

import numpy as np
import scipy

from linjax.fold.least_squares.budget import Link
from linjax.fold.least_squares.features import along, block_rows
from linjax.fold.least_squares.plan import Plan
from linjax.fold.least_squares.prices import Problem, anatomy, shrunk
from linjax.fold.least_squares.refit import refit
from linjax.graph.layers import Layers
from linjax.graph.substitute import substitute

Array = np.ndarray


def joined(problems: Sequence[Problem], plan: Plan, chains: Sequence[Layers]) -> tuple[Layers, ...]:
    """Lets branches read what is left of their trunks.

    Args:
      problems: the network's chains, trunks before their branches.
      plan: the plan that they were folded to.
      chains: each folded on the original's features.

    Returns:
      The chains, each of which reads what its trunk computes now.
    """
    trunks = {trunk for problem in problems for trunk in problem.link.trunks}
    ends: dict[int, tuple[Array, Array]] = {}
    result = []
    for c, (problem, layers) in enumerate(zip(problems, chains, strict=True)):
        outputs = layers[-1].units
        if c in trunks:
            layers = _telling(problem, plan.ridge, layers)
        if problem.link.branch:
            layers = _reading(layers, problem.link, ends)
        if c in trunks:
            last = layers[-1]
            ends[c] = last.kernel[:, outputs:], last.bias[outputs:]
            end = last._replace(kernel=last.kernel[:, :outputs], bias=last.bias[:outputs])
            layers = (*layers[:-1], end)
        result.append(layers)
    return tuple(result)


def _reading(layers: Layers, link: Link, ends: dict[int, tuple[Array, Array]]) -> Layers:
    """The chain where its input is ``f @ matrix + offset``, for each map that it begins with."""
    parts = [
        (np.eye(width), np.zeros(width)) if trunk < 0 else ends[trunk]
        for trunk, width in zip(link.trunks, link.widths, strict=True)
    ]
    matrix = scipy.linalg.block_diag(*(part for part, _ in parts))
    offset = np.concatenate([part for _, part in parts])
    return substitute(layers, 0, lambda rows: matrix @ rows, offset)


def _telling(problem: Problem, ridge: float, layers: Layers) -> Layers:
    """The chain with the original's last features as further outputs."""
    last, original = layers[-1], problem.layers
    wanted = original[-1].kernel.shape[0]
    matrix, offset = np.eye(wanted), np.zeros(wanted)
    if any(new is not old for new, old in zip(layers[:-1], original[:-1], strict=True)):
        blocks = block_rows(problem.moments)
        kept = [rows[layer.origin] for rows, layer in zip(blocks[1:], layers[:-1], strict=True)]
        target = anatomy(problem).features[-1]
        matrix, offset = refit(
            shrunk(problem, ridge), along(layers, [blocks[0], *kept])[-1], target
        )
    end = last._replace(
        kernel=np.concatenate([last.kernel, matrix], axis=1),
        bias=np.concatenate([last.bias, offset]),
    )
    return (*layers[:-1], end)
