"""Folding layer by layer on the folded network's own activations.

The targets stay the original's pre-activations; what reproduces them is measured on the
network as folded so far, so that every layer also corrects the errors made before it. Two
passes over the data a layer: one to refit its kernel, one to choose among its units. They
hold second moments of p' + q and of p' + m + 128 variables, p' being the folded width of the
features, m the number of units and q that of pre-activations, and nothing of other layers.
"""

import numpy as np

from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Features, Frame, along, block_rows, frame
from linjax.fold.least_squares.measure import Data, Target, measure
from linjax.fold.least_squares.one_shot import Plan
from linjax.fold.least_squares.prices import Problem, anatomy
from linjax.fold.least_squares.refit import Stage, Widths, fold_layer, refit
from linjax.fold.least_squares.surface import few_directions, metric_root, principal
from linjax.graph import pytree
from linjax.graph.chains import write_chain
from linjax.graph.layers import Layer, Layers

Array = np.ndarray


def fold_sequentially(data: Data, problems: tuple[Problem, ...], plan: Plan) -> pytree.Flat:
    """Folds all chains in order, each on the activations of the network folded so far.

    Args:
      data: the original network and the rows to fit on.
      problems: its chains, with moments of the original.
      plan: widths and ridge.

    Returns:
      The flat parameter pytree.
    """
    flat = pytree.flatten(data.original)
    graph = data.net.graph
    for chain, (problem, shape) in enumerate(zip(problems, plan.shapes, strict=True)):
        layers = _fold_chain(data, chain, flat, problem, shape, plan.ridge)
        flat = write_chain(graph, flat, graph.chains[chain], layers)
    return flat


def _fold_chain(data, chain, flat, problem, shape, ridge) -> Layers:
    layers, rows = problem.layers, block_rows(problem.moments)
    original = frame(problem.moments, None, ridge)
    pre = anatomy(problem).pre
    roots = [metric_root(g) for g in problem.moments.sensitivity]
    done: Layers = ()
    blocks = [rows[0]]
    for depth, layer in enumerate(layers):
        here = measure(data, chain, flat, done, depth, Target(layers, depth, _reading(layer)))
        v, z = _spans(here, layer.units)
        in_one_shot = along((*done, layer), blocks)[depth]
        start, _ = refit(original, in_one_shot, pre[depth])
        kernel, bias = _corrected(here, v, z, start, ridge)
        whole = Layer(
            kernel, bias + layer.bias, unit_leaves=layer.unit_leaves, origin=layer.origin
        )
        widths = Widths(shape.necks[depth], shape.units[depth], shape.linears[depth])
        if depth + 1 == len(layers):
            stage = Stage(v, whole.kernel, whole.bias, None, z @ roots[depth])
            return (*done, fold_layer(here, stage, widths, layer)[0])
        weighted = pre[depth + 1] @ roots[depth + 1]
        few = few_directions(Features(np.arange(len(roots[depth + 1]))), *principal(original, weighted))
        matrix = _reading(layers[depth + 1]) @ roots[depth + 1] @ few.dense
        seen = measure(
            data, chain, flat, (*done, whole), depth, Target(layers, depth + 1, matrix)
        )
        v, h, t = _spans(seen, layer.units, matrix.shape[1])
        seen = _shrunk(seen, ridge, v.width + h.width)
        new, kept = fold_layer(seen, Stage(v, whole.kernel, whole.bias, h, t), widths, layer)
        done, blocks = (*done, new), [*blocks, rows[depth + 1][kept]]
    raise AssertionError("a chain ends with its last layer")


def _reading(layer: Layer) -> Array:
    """The matrix from a layer's features to its pre-activation."""
    return layer.kernel if layer.down is None else layer.down @ layer.kernel


def _spans(data: Frame, *widths: int) -> list[Features]:
    """Splits measured variables: all in front of the given widths, then each of these."""
    ends = np.cumsum([0, len(data.mean) - sum(widths), *widths])
    return [Features(np.arange(a, b)) for a, b in zip(ends, ends[1:], strict=False)]


def _shrunk(data: Frame, ridge: float, width: int) -> Frame:
    """The moments with the variances of the first variables raised."""
    raised = np.arange(width)
    data.covariance[raised, raised] *= 1.0 + ridge
    return data


def _corrected(
    data: Frame, v: Features, z: Features, start: Array, ridge: float
) -> tuple[Array, Array]:
    """Refits a kernel, shrunk towards a start: ``B = B0 + (C + λD)⁻¹ (C_vz − C B0)``."""
    covariance = data.within(v)
    raised = covariance + ridge * np.diag(np.diag(covariance))
    kernel = start + solve(raised, data.between(v, z) - covariance @ start)
    return kernel, data.mean_of(z) - data.mean_of(v) @ kernel
