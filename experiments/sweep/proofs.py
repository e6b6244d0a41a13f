"""How many units of a trained network are provably linear for every input in the data's box."""

from typing import Any

import numpy as np

import linjax
from linjax.chains.reading import read_chain
from linjax.evidence.bounds import Verdict
from linjax.program import pytree

Counts = dict[str, int]


def counts(net: linjax.Net, params: Any, x: np.ndarray, seconds: float) -> Counts:
    """Counts units whose activation is one affine function on the box that rows span.

    Args:
      net: the traced network.
      params: its parameters.
      x: ``(rows, features)``; each feature ranges from its least to its greatest value.
      seconds: after which ``certify`` leaves units undecided.

    Returns:
      ``units``, ``static`` (see :func:`static`), and how many units are proven to be always
      ``active``, always ``inactive``, ``unstable``, or are left ``undecided``.
    """
    lower, upper = x.min(axis=0), x.max(axis=0)
    bounds = linjax.certify(net, params, lower, upper, time_limit=seconds, data=x)
    verdicts = np.concatenate([site.verdict for site in bounds.sites])
    found = {verdict.name.lower(): int(np.sum(verdicts == verdict)) for verdict in Verdict}
    return {"units": len(verdicts), "static": static(net, params, lower)} | found


def static(net: linjax.Net, params: Any, lower: np.ndarray) -> int:
    """Counts the units that the weights' signs show to be always on.

    Such a unit reads features that are never negative, by weights and a bias that aren't.

    References:
      Dobler and Lemmerich, 2025, arXiv 2506.21146.
    """
    flat, total = pytree.flatten(params), 0
    for chain in net.graph.chains:
        positive = chain.source == "input" and bool(np.all(lower >= 0))
        layers = read_chain(net.graph, flat, chain)
        for site, layer in zip(chain.sites, layers, strict=False):
            if positive:
                total += int(np.sum((layer.kernel >= 0).all(axis=0) & (layer.bias >= 0)))
            positive = site.activation.slopes == (0.0, 1.0)
    return total
