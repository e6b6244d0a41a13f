"""Folding layer by layer on the folded network's own activations.

The targets stay the original's pre-activations; what reproduces them is measured on the
network as folded so far, so that every layer also corrects the errors made before it. Two
passes over the data a layer: one to refit its kernel, one to choose among its units. They
hold second moments of p' + q and of p' + m + 128 variables, p' being the folded width of the
features, m the number of units and q that of pre-activations, and nothing of other layers.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from linjax.fold.least_squares.budget import Shape
from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Features, Frame, along, block_rows, frame
from linjax.fold.least_squares.measure import Data, Target, measure
from linjax.fold.least_squares.plan import Plan
from linjax.fold.least_squares.prices import Problem, anatomy
from linjax.fold.least_squares.refit import Stage, Widths, fold_layer, refit
from linjax.fold.least_squares.surface import leading, metric_root, principal
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
        original = frame(problem.moments, None, plan.ridge)
        look = functools.partial(measure, data, chain, flat)
        work = _Chain(problem, shape, original, anatomy(problem).pre, plan.ridge, look)
        flat = write_chain(graph, flat, graph.chains[chain], _fold_chain(work))
    return flat


class _Chain(NamedTuple):
    """What stays the same along one chain.

    Attributes:
      problem: the chain.
      shape: widths to fold to.
      frame: moments of the original, shrunk.
      pre: the original's pre-activations as maps of ``a``.
      ridge: weight of the shrinkage.
      measure: gathers moments of (layers folded so far, depth, target).
    """

    problem: Problem
    shape: Shape
    frame: Frame
    pre: tuple[Features, ...]
    ridge: float
    measure: Callable[[Layers, int, Target], Frame]

    def root(self, depth: int) -> Array:
        """Square root of the output metric at a layer's pre-activation."""
        return metric_root(self.problem.moments.sensitivity[depth])


def _fold_chain(chain: _Chain) -> Layers:
    layers, rows = chain.problem.layers, block_rows(chain.problem.moments)
    done: Layers = ()
    blocks = [rows[0]]
    for depth, layer in enumerate(layers):
        whole, here = _refitted(chain, done, blocks, depth)
        widths = Widths(*(numbers[depth] for numbers in chain.shape))
        if depth + 1 == len(layers):
            v, z = _spans(here, layer.units)
            stage = Stage(v, whole.kernels, whole.biases, None, z @ chain.root(depth))
            return (*done, fold_layer(here, stage, widths, layer)[0])
        new, kept = _chosen(chain, done, whole, widths)
        done, blocks = (*done, new), [*blocks, rows[depth + 1][kept]]
    return done


def _refitted(chain: _Chain, done: Layers, blocks: list[Array], depth: int) -> tuple[Layer, Frame]:
    """Refits all units of a layer to what the folded network feeds it.

    Shrinks towards the refit that one shot would make of the same features.
    """
    layers = chain.problem.layers
    layer = layers[depth]
    here = chain.measure(done, depth, Target(layers, depth, _reading(layer)))
    v, z = _spans(here, len(layer.biases))
    start, _ = refit(chain.frame, along((*done, layer), blocks)[depth], chain.pre[depth])
    covariance = here.within(v)
    raised = covariance + chain.ridge * np.diag(np.diag(covariance))
    kernel = start + solve(raised, here.between(v, z) - covariance @ start)
    bias = here.mean_of(z) - here.mean_of(v) @ kernel + layer.biases
    whole = layer._replace(linear=None, carry=False, down=None)
    return whole.with_kernels(kernel, bias), here


def _chosen(chain: _Chain, done: Layers, whole: Layer, widths: Widths) -> tuple[Layer, Array]:
    """Chooses among a refitted layer's units, seen in the folded network."""
    depth = len(done)
    following = chain.problem.layers[depth + 1]
    root = chain.root(depth + 1)
    axes = principal(chain.frame, chain.pre[depth + 1] @ root)
    matrix = _reading(following) @ root @ leading(*axes)
    seen = chain.measure((*done, whole), depth, Target(chain.problem.layers, depth + 1, matrix))
    v, h, target = _spans(seen, whole.units, matrix.shape[1])
    raised = np.arange(v.width + h.width)
    seen.covariance[raised, raised] *= 1.0 + chain.ridge
    return fold_layer(seen, Stage(v, whole.kernels, whole.biases, h, target), widths, whole)


def _reading(layer: Layer) -> Array:
    """The matrix from a layer's features to its pre-activation."""
    return layer.kernels if layer.down is None else layer.down @ layer.kernels


def _spans(data: Frame, *widths: int) -> list[Features]:
    """Splits measured variables: all in front of the given widths, then each of these."""
    ends = np.cumsum([0, len(data.mean) - sum(widths), *widths])
    return [Features(np.arange(a, b)) for a, b in itertools.pairwise(ends)]
