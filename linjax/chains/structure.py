"""The static description of a network: affine maps, the sites between them, and what was refused.

Everything here is hashable and free of arrays, so that evidence can carry it as
static data and a fold needs neither the network's function nor its class.
"""

from typing import NamedTuple

from linjax.chains.maps import Activation, Affine
from linjax.dims.sites import Refusal
from linjax.program.pytree import Leaf, Path


class Site(NamedTuple):
    """An activation between affine maps: the place where units can fold.

    Attributes:
      name: the producer's name.
      producer: name of the affine map that computes the pre-activation ``z``.
      consumers: names of the affine maps that read ``h = σ(z)``, and its only readers.
      width: number of units ``m`` in the traced network.
      activation: the elementwise function σ.
      unit_leaves: paths of parameters with one entry a unit that σ reads (PReLU's slopes).
      mates: names of further affine maps of the same features whose results h is made of,
        too, unit by unit: a gated layer's ``h = σ(z) · z'``.
      terms: names of further affine maps, of other features, whose results are parts of the
        pre-activation: ``z = v W + b + v' W'``.
    """

    name: str
    producer: str
    consumers: tuple[str, ...]
    width: int
    activation: Activation
    unit_leaves: tuple[Path, ...] = ()
    mates: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of all affine maps that its units are made by."""
        return (self.producer, *self.mates, *self.terms)


class Chain(NamedTuple):
    """A run of affine maps with a site between each and the next.

    Attributes:
      layers: names of the affine maps at each depth. All but the last depth hold one
        name; the last may hold several consumers, which read the same features. One of
        these may have units itself: it is the first of another chain, a branch. So does a
        map whose result is added to another's, which reads other features.
      sites: ``sites[i]`` lies between ``layers[i]`` and ``layers[i + 1]``.
      source: ``"input"`` if the first map reads the network's first input, flattened
        per example; else ``"hidden"``.
    """

    layers: tuple[tuple[str, ...], ...]
    sites: tuple[Site, ...]
    source: str

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the affine maps at each depth whose results are read by themselves.

        A gated layer's mates are among them; a sum's terms, which become one result, aren't.
        """
        mates = (*(site.mates for site in self.sites), ())
        return tuple((*own, *more) for own, more in zip(self.layers, mates, strict=True))

    @property
    def firsts(self) -> tuple[str, ...]:
        """Names of the maps that a chain begins with: more than one where it is their sum."""
        return (*self.layers[0], *self.sites[0].terms)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of all its affine maps."""
        terms = (name for site in self.sites for name in site.terms)
        return (*(name for group in self.groups for name in group), *terms)


class Graph(NamedTuple):
    """A traced network, statically: what evidence is about.

    Attributes:
      affines: every affine map with a kernel that is a parameter leaf.
      chains: the foldable runs; each site is in exactly one.
      refusals: what cannot be folded, with reasons.
      leaves: the traced parameter pytree's leaves, in order.
      computed: what kernels are computed of these, and of no coordinate alone.
      gone: leaves that aren't there where such kernels are.
    """

    affines: tuple[Affine, ...]
    chains: tuple[Chain, ...]
    refusals: tuple[Refusal, ...]
    leaves: tuple[Leaf, ...]
    computed: tuple[Leaf, ...] = ()
    gone: tuple[Path, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, chain by chain."""
        return tuple(site for chain in self.chains for site in chain.sites)

    def affine(self, name: str) -> Affine:
        """Returns the affine map of this name."""
        return next(a for a in self.affines if a.name == name)

    def trunks(self, chain: Chain) -> tuple[Chain | None, ...]:
        """Returns, for each map that a chain begins with, the chain whose last activation it reads.

        None stands for a map that reads no chain's.
        """
        return tuple(
            next((c for c in self.chains if first in c.layers[-1]), None) for first in chain.firsts
        )

    def branches(self, chain: Chain) -> tuple[Chain, ...]:
        """Returns the chains that begin where a chain ends, all reading its last activation."""
        return tuple(c for c in self.chains if set(c.firsts) & set(chain.layers[-1]))

    def open_ended(self, chain: Chain) -> frozenset[str]:
        """Returns the names of the maps behind a chain that have units themselves."""
        return frozenset(name for b in self.branches(chain) for name in b.sites[0].maps)

    def single(self, chain: Chain) -> bool:
        """Whether a chain ends in one map, which may have a bottleneck of its own."""
        return len(chain.layers[-1]) == 1 and not self.branches(chain)

    @property
    def branching(self) -> bool:
        """Whether some chain begins where another ends."""
        return any(any(self.trunks(chain)) for chain in self.chains)
