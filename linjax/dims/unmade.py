"""Kernels of dimensions that no product makes, and why they stay as they are."""

from linjax.dims.layout import Layout
from linjax.dims.space import OPAQUE, WHOLE
from linjax.dims.values import Role

UNMADE = "it meets data otherwise than in a product, so that its coordinates aren't followed"
CHOSEN = (
    "its kernel depends on the inputs, as in a lax.cond under vmap: compute both results, and "
    "choose by jnp.where"
)


def kernels_without_product(layout: Layout, dim: int) -> dict[int, str]:
    """Returns by kernel why it isn't folded along a dimension that no product makes.

    Kernels that go into an operation as a whole, whatever it does to them; that data choose or
    change; or that meet data otherwise (centres that distances are measured from), though products
    read what becomes of that.
    """
    reasons, roles = layout.reasons[dim], {mark.role for mark in layout.marks.get(dim, ())}
    kernels = [n for n, spans in enumerate(layout.leaves) if len(spans) > 1
               and any(dim in s.dims() for s in spans)]  # fmt: skip
    opaque = [reason for reason in reasons if OPAQUE in reason or reason in WHOLE]
    if Role.PAIRED in roles and Role.READ not in roles and not reasons:
        opaque = [CHOSEN]
    if opaque:
        return dict.fromkeys(kernels, opaque[0])
    if Role.READ not in roles:
        return {}
    read = {n for n in kernels if dim in layout.values[layout.program.inputs[n].id].read}
    return {leaf: UNMADE for leaf in kernels if leaf not in read}
