"""Folding in one shot: a pure function of the parameters and of second moments."""

from collections.abc import Sequence

import numpy as np

from linjax.fold.engine.linalg import metric_root
from linjax.fold.least_squares.budget import Shape
from linjax.fold.least_squares.features import Features, Frame, leaving, onward
from linjax.fold.least_squares.plan import Plan
from linjax.fold.least_squares.prices import Problem, anatomy, shape_of, shrunk
from linjax.fold.least_squares.refit import Stage, Widths, fold_layer, refit
from linjax.fold.least_squares.surface import leading, principal
from linjax.graph.layers import Layers

Array = np.ndarray


def fold_moments(problems: Sequence[Problem], plan: Plan) -> tuple[Layers, ...]:
    """Folds the chains of a network by least squares on second moments.

    Goes through every chain from its input: units are chosen and linear units directed so that
    the next pre-activation ``z`` is reproduced best in the output metric, the kernels behind
    them are refitted, ``B = C_ff⁻¹ C_fz`` with f = [h_kept, u], and bottlenecks factored.

    Args:
      problems: the network's chains, with moments collected on them.
      plan: their widths.

    Returns:
      The folded chains, float64.

    Example:
      >>> import numpy as np
      >>> from linjax.evidence.moments import Moments
      >>> from linjax.fold.least_squares.plan import curves, within_error
      >>> rows = np.random.default_rng(0).normal(size=(2, 50, 3))
      >>> kernel, head = np.ones((3, 40)), np.ones((40, 2))
      >>> a = np.concatenate([rows, np.maximum(rows @ kernel + 20, 0)], -1)
      >>> centred = a - a.mean(1, keepdims=True)
      >>> moments = Moments(np.array([50.0, 50.0]), a.mean(1),
      ...     centred.swapaxes(1, 2) @ centred, (np.eye(40), np.eye(2)), (3, 40))
      >>> from linjax.graph.layers import Layer
      >>> layers = (Layer(kernel, np.full(40, 20.0)), Layer(head, np.zeros(2)))
      >>> problems = [Problem(layers, moments)]
      >>> plan = within_error(curves(problems), 1e-3)
      >>> [layer.units for layer in fold_moments(problems, plan)[0]], plan.parameters
      ([0, 2], 7)
    """
    return tuple(
        execute(problem, shrunk(problem, plan.ridge), shape)
        for problem, shape in zip(problems, plan.shapes, strict=True)
    )


def execute(problem: Problem, data: Frame, shape: Shape, inputs: Features | None = None) -> Layers:
    """Folds a chain to the given widths, from its input to its outputs.

    Layers in front of the first one that changes stay as they are.

    Args:
      problem: the chain.
      data: its moments.
      shape: the widths.
      inputs: the features that are left of its input, where it reads something folded; the
        first layer is then refitted to these.
    """
    parts, start = anatomy(problem), shape_of(problem.layers)
    roots = [metric_root(g) for g in problem.moments.sensitivity]
    v, done, same = parts.features[0] if inputs is None else inputs, [], inputs is None
    for i, layer in enumerate(problem.layers):
        widths = Widths(shape.necks[i], shape.units[i], shape.linears[i])
        same = same and widths == Widths(start.necks[i], start.units[i], start.linears[i])
        last = i + 1 == len(problem.layers)
        if same:
            done.append(layer)
            v = v if last else parts.features[i + 1]
            continue
        kernel, shift = refit(data, v, parts.pre[i])
        behind = i if last else i + 1
        target = parts.features[behind] @ onward(problem.layers, behind, roots)
        stage = Stage(
            inputs=v,
            kernel=kernel,
            bias=shift + layer.biases,
            units=None if last else parts.units[i],
            target=target @ leading(*principal(data, target)),
        )
        new, kept = fold_layer(data, stage, widths, layer)
        done.append(new)
        v = v if last else leaving(new, v, parts.units[i].rows[kept])
    return tuple(done)
