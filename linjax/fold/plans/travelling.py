"""Noise that keeps to where inputs move: shrinkage's noise on pre-activations that a kernel makes.

Pre-activations are linear in what makes them, whatever the rows say: noise on them has no other
directions. So units that stay on are still exact linear maps of few coordinates, however strong
the shrinkage. Within these directions noise has the size of the pre-activations and no preference.
Independent noise on the inputs would be a tenth of that where these go together, and next to
nothing in the directions of least variance: regressions would lean on them, and what earlier sites
lose is lost there first.
"""

from collections.abc import Sequence

import numpy as np

from linjax.dims.sites import Site
from linjax.fold.engine.linalg import descending
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.engine.problem import frame
from linjax.fold.engine.shrink import noise
from linjax.fold.plans.factored import Kernel

Array = np.ndarray

ALIKE = 1e-2
"""How far variances may be from those of what a kernel makes: nothing else has been done to it."""
SOLID = 1e-15
"""Share of the largest noise, for each of the pre-activations, that is more than rounding."""


def with_noise(
    sites: Sequence[Site],
    problems: Sequence[Problem],
    points: Sequence[Sequence[int]],
    kernels: Sequence[Kernel],
) -> tuple[Problem, ...]:
    """Problems whose noise keeps to the directions in which noise on what makes them can move.

    Those that several kernels make, or none that could be factored, or that are scaled on the
    way, have noise of their own as before.

    Args:
      sites: in the order of execution.
      problems: by site.
      points: by site, which of the problem's points each point of the site is.
      kernels: those that could be factored.
    """
    found = list(problems)
    makers = {kernel.made: kernel for kernel in kernels}
    for n, (site, problem) in enumerate(zip(sites, problems, strict=True)):
        straight = problem.sources or problem.straight
        if n in makers and len(site.makers) == problem.repeats == 1 and straight:
            found[n] = problem._replace(noise=_reached(makers[n], problem, found, points))
    return tuple(found)


def _reached(
    kernel: Kernel, problem: Problem, problems: Sequence[Problem], points: Sequence[Sequence[int]]
) -> Array | None:
    matrix, covariance = kernel.matrix, frame(kernel.moments).covariance[0]
    own = frame(problem.points[0].moments).covariance[0].diagonal()[-problem.width :]
    made = np.einsum("pq,pr,rq->q", matrix, covariance, matrix, optimize=True)
    if not np.allclose(made, own, rtol=ALIKE, atol=ALIKE * own.max(initial=0.0)):
        return None
    arriving = np.diag(covariance.diagonal())
    if kernel.read.point is not None:
        site, point = kernel.read.point
        before = problems[site]
        if before.kind not in ("aligned", "normed"):
            seen = frame(before.points[points[site][point]].moments)
            arriving = noise(before, seen)[0, : before.width, : before.width]
    # Where that can arrive at all, noise is of the size of what does.
    size = np.sqrt(own)
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    values, vectors = descending(inverse[:, None] * (matrix.T @ arriving @ matrix) * inverse)
    solid = values > len(values) * SOLID * values.max(initial=0.0)
    reached = size[:, None] * vectors[:, solid]
    return (reached @ reached.T)[None]
