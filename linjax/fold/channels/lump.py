"""Lumping channels: those whose kernels are proportional become one, exactly, on all inputs.

If ``(W[…, t], b_t) = ρ (W[…, v], b_v)`` with ρ > 0 and everything between the convolution and its
readers is positively homogeneous (ReLU, pooling), channel t is ρ times channel v at every
place, also at borders, which are padded by zeros: it goes, and ρ times what its readers do
with it is added to what they do with v. A channel that is zero everywhere just goes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from linjax.fold.channels.execute import apply_choices, restricted_chains
from linjax.fold.channels.network import Network, bare
from linjax.fold.channels.problem import Problem
from linjax.fold.channels.surface import Choice
from linjax.fold.proportional import multiples, rounding, storable
from linjax.graph import pytree
from linjax.graph.channels.places import HOMOGENEOUS
from linjax.graph.maps import Path
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


def lump_channels(
    params: pytree.Flat, graph: Graph, tolerance: float, coarse: dict[Path, DTypeLike]
) -> pytree.Flat:
    """Lumps all sites behind convolutions, in the order of the program.

    Args:
      params: flat parameters.
      graph: the network.
      tolerance: how far normalised kernels may be apart, in the Euclidean norm, rounding apart.
      coarse: dtypes that kernels are stored or computed in, the coarser one, by path.

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
        groups = _groups(network, site, tolerance, flat)
        groups = _storable(network, position, groups, coarse)
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


def _groups(network: Network, site: ChannelSite, tolerance: float, flat: pytree.Flat) -> Groups:
    kernel, bias = _columns(network, site.producer)
    conv = network.graph.convolution(site.producer)
    dtype = flat[conv.kernel].dtype if conv.kernel in flat else np.dtype(np.float32)
    zero = ~kernel.any(axis=0) & (bias == 0.0)
    if site.activation.slopes[0] == 0.0:  # never on: no input can reach it, and its bias is ≤ 0
        zero |= ~kernel.any(axis=0) & (bias <= 0.0)
    live = np.flatnonzero(~zero)
    leader, ratio = np.full(len(bias), -1), np.zeros(len(bias))
    if len(live):
        kind = np.zeros(len(live), int)
        found = multiples(kernel[:, live], bias[live], kind, rounding(dtype), tolerance)
        leader[live], ratio[live] = live[found.leader], found.ratio
    return Groups(leader, ratio)


def _columns(network: Network, name: str) -> tuple[Array, Array]:
    """A convolution's kernel as a matrix, and its bias."""
    kernel = network.kernels[name]
    return kernel.kernel.reshape(-1, kernel.kernel.shape[2]), kernel.bias


def _storable(
    network: Network, position: int, groups: Groups, coarse: dict[Path, DTypeLike]
) -> Groups:
    """Leaves channels alone whose joint weights can't be rounded to their readers' dtypes."""
    problem, graph = network.problems[position], network.graph
    kernel, bias = _columns(network, network.sites[position].producer)
    own = np.arange(problem.units)
    live = groups.leader >= 0
    leader = np.where(live, groups.leader, own)
    fits = np.ones(problem.units, bool)
    for reader in problem.readers:
        convolutions = {conv.name: conv.kernel for conv in graph.convolutions}
        path = convolutions.get(reader.name) or graph.affine(reader.name).kernel
        rows = np.moveaxis(reader.rows[:, : problem.units], 1, 0).reshape(problem.units, -1)
        merged = np.zeros_like(rows)
        np.add.at(merged, leader, groups.ratio[:, None] * rows)
        dtype = coarse.get(path, np.dtype(np.float32))
        fits &= storable(rows, merged, leader, kernel, bias, dtype)
    alone = live & ~fits[leader]
    return Groups(np.where(alone, own, groups.leader), np.where(alone, 1.0, groups.ratio))


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
