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

from linjax.fold.engine.linalg import metric_root
from linjax.fold.least_squares.budget import Shape
from linjax.fold.least_squares.features import (
    Features,
    Frame,
    along,
    block_rows,
    frame,
    onward,
    side_by_side,
)
from linjax.fold.least_squares.measure import Data, Target, measure
from linjax.fold.least_squares.plan import Plan
from linjax.fold.least_squares.prices import Problem, anatomy, spread
from linjax.fold.least_squares.refit import Stage, Widths, fold_layer, refit
from linjax.fold.least_squares.surface import leading, principal
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
        seen = frame(problem.moments)
        added = seen._replace(covariance=plan.ridge * spread(problem))
        look = functools.partial(measure, data, chain, flat)
        parts = anatomy(problem)
        work = _Chain(problem, shape, parts.features, parts.pre, seen, added, look)
        flat = write_chain(graph, flat, graph.chains[chain], _fold_chain(work))
    return flat


class _Chain(NamedTuple):
    """What stays the same along one chain.

    Attributes:
      problem: the chain.
      shape: widths to fold to.
      features: what the original's layers read, as maps of ``a``.
      pre: their pre-activations, likewise.
      seen: moments of the original's ``a``.
      noise: the same, with the covariance of the noise by which regressions are shrunk.
      measure: gathers moments of (layers folded so far, depth, target).
    """

    problem: Problem
    shape: Shape
    features: tuple[Features, ...]
    pre: tuple[Features, ...]
    seen: Frame
    noise: Frame
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
        new, kept = _chosen(chain, done, blocks, whole, widths)
        done, blocks = (*done, new), [*blocks, rows[depth + 1][kept]]
    return done


def _refitted(chain: _Chain, done: Layers, blocks: list[Array], depth: int) -> tuple[Layer, Frame]:
    """Refits all units of a layer to what the folded network feeds it."""
    layers = chain.problem.layers
    layer = layers[depth]
    target = Target(layers, depth, _reading(layer))
    here = _seen(chain, done, blocks, depth, target, [chain.pre[depth]])
    kernel, shift = refit(here, *_spans(here, len(layer.biases)))
    whole = layer._replace(linear=None, carry=False, down=None)
    return whole.with_kernels(kernel, shift + layer.biases), here


def _chosen(
    chain: _Chain, done: Layers, blocks: list[Array], whole: Layer, widths: Widths
) -> tuple[Layer, Array]:
    """Chooses among a refitted layer's units, seen in the folded network."""
    layers, depth = chain.problem.layers, len(done)
    wanted = onward(layers, depth + 1, [chain.root(i) for i in range(len(layers))])
    weighted = chain.features[depth + 1] @ wanted
    axes = leading(*principal(chain.seen, weighted))
    target = Target(layers, depth + 1, wanted @ axes)
    beside = [Features(block_rows(chain.problem.moments)[depth + 1]), weighted @ axes]
    seen = _seen(chain, (*done, whole), blocks, depth, target, beside)
    v, h, aim = _spans(seen, whole.units, axes.shape[1])
    return fold_layer(seen, Stage(v, whole.kernels, whole.biases, h, aim), widths, whole)


def _seen(
    chain: _Chain, own: Layers, blocks: list[Array], depth: int, target: Target,
    beside: list[Features],
) -> Frame:  # fmt: skip
    """Moments of a layer's features and what stands beside them, with the original's noise."""
    seen = chain.measure(own, depth, target)
    features = along((*own[:depth], chain.problem.layers[depth]), blocks)[depth]
    added = chain.noise.within(side_by_side([features, *beside]))
    return seen._replace(covariance=seen.covariance + added)


def _reading(layer: Layer) -> Array:
    """The matrix from a layer's features to its pre-activation."""
    return layer.kernels if layer.down is None else layer.down @ layer.kernels


def _spans(data: Frame, *widths: int) -> list[Features]:
    """Splits measured variables: all in front of the given widths, then each of these."""
    ends = np.cumsum([0, len(data.mean) - sum(widths), *widths])
    return [Features(np.arange(a, b)) for a, b in itertools.pairwise(ends)]
