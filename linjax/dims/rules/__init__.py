"""What is known of JAX's primitives: a rule each, gathered in one table.

A rule says how the axes of an operation's results follow from those of its operands, what the
operation does to a dimension, and which of its parameters change where dimensions have other
sizes. Whatever has no rule freezes all that it touches, by its name.
"""

from linjax.dims.rules import elementwise, indexing, joining, layout, products, reductions
from linjax.dims.rules.rule import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **products.RULES,
    **layout.RULES,
    **joining.RULES,
    **reductions.RULES,
    **indexing.RULES,
}

__all__ = ["RULES", "Rule"]
