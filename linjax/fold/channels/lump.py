"""Lumping channels: those whose kernels are proportional become one, exactly, on all inputs.

If ``(W[…, t], b_t) = ρ (W[…, v], b_v)`` with ρ > 0 and everything between the convolution and its
readers is positively homogeneous (ReLU, pooling), channel t is ρ times channel v at every
place, also at borders, which are padded by zeros: it goes, and ρ times what its readers do
with it is added to what they do with v. A channel that is zero everywhere just goes.
"""

from typing import NamedTuple

import numpy as np

from linjax.fold.channels.execute import apply_choices, restricted_chains
from linjax.fold.channels.network import Network, bare
from linjax.fold.channels.problem import Problem
from linjax.fold.channels.surface import Choice
from linjax.graph import pytree
from linjax.graph.channels.places import HOMOGENEOUS
from linjax.graph.structure import ChannelSite, Graph

Array = np.ndarray


class Groups(NamedTuple):
    """A partition of channels into proportional ones.

    Attributes:
      leader: ``(m,)`` each channel's representative, itself if it is one, −1 for a channel
        that is zero everywhere.
      ratio: ``(m,)`` the factor to the representative.
    """

    leader: Array
    ratio: Array


def lump_channels(params: pytree.Flat, graph: Graph, tolerance: float) -> pytree.Flat:
    """Lumps all sites behind convolutions, in the order of the program.

    Args:
      params: flat parameters.
      graph: the network.
      tolerance: how far normalised kernels may be apart, in the Euclidean norm.

    Returns:
      Flat parameters; the same if no channels are proportional.
    """
    flat = params
    for site in graph.channels:
        if not _homogeneous(site):
            continue
        network = bare(graph, flat)
        if site not in network.sites:
            continue
        position = network.sites.index(site)
        problem = network.problems[position]
        groups = _groups(network, site, tolerance)
        kept = np.flatnonzero(groups.leader == np.arange(problem.units))
        if len(kept) == problem.units or not len(kept):
            continue
        flat = _joined(network, position, groups, kept)
    return flat


def _homogeneous(site: ChannelSite) -> bool:
    return (
        site.activation.slopes is not None
        and site.groups == 1  # of which all would have to lose as many
        and not site.unit_leaves
        and set(site.steps) <= HOMOGENEOUS
    )


def _groups(network: Network, site: ChannelSite, tolerance: float) -> Groups:
    kernel = network.kernels[site.producer]
    columns = np.concatenate([kernel.kernel.reshape(-1, kernel.kernel.shape[2]), kernel.bias[None]])
    m = columns.shape[1]
    norm = np.linalg.norm(columns, axis=0)
    zero = norm <= tolerance * max(float(norm.max(initial=0.0)), np.finfo(float).tiny)
    if site.activation.slopes[0] == 0.0:  # never on: no input can reach it, and its bias is ≤ 0
        weights = np.abs(columns[:-1]).sum(0)
        zero |= (weights == 0.0) & (columns[-1] <= 0.0)
    unit = columns / np.where(norm > 0, norm, 1.0)
    leader = np.where(zero, -1, np.arange(m))
    for i in range(m):
        if leader[i] != i:
            continue
        near = np.linalg.norm(unit[:, i + 1 :] - unit[:, i : i + 1], axis=0) <= tolerance
        later = np.flatnonzero(near) + i + 1
        leader[later[leader[later] == later]] = i
    own = norm[np.maximum(leader, 0)]
    return Groups(leader, np.where(leader >= 0, norm / np.where(own > 0, own, 1.0), 0.0))


def _joined(network: Network, position: int, groups: Groups, kept: Array) -> pytree.Flat:
    """Adds what readers do with channels to what they do with their representatives."""
    problem = network.problems[position]
    onto = np.zeros((problem.channels, problem.channels))
    for t, (v, ratio) in enumerate(zip(groups.leader, groups.ratio, strict=True)):
        if v >= 0:
            onto[v, t] = ratio
    linear = np.arange(problem.units, problem.channels)
    onto[linear, linear] = 1.0
    readers = tuple(
        reader._replace(rows=np.einsum("vt,ktq->kvq", onto, reader.rows))
        for reader in problem.readers
    )
    changed = (
        *network.problems[:position],
        problem._replace(readers=readers),
        *network.problems[position + 1 :],
    )
    made = [_everything(p) for p in changed]
    made[position] = made[position]._replace(kept=np.concatenate([kept, linear]))
    network = network._replace(problems=changed)
    flat = apply_choices(network, made, refit=False)
    return restricted_chains(network, flat, made, onto={problem.name: onto})


def _everything(problem: Problem) -> Choice:
    return Choice(np.arange(problem.channels), np.zeros((problem.units, 0)))
