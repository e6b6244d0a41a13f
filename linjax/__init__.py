"""linjax: smaller networks without retraining, by exploiting linearity."""

from linjax.errors import EvidenceError, FoldWarning, LinjaxError, StructureError
from linjax.evidence.collect import collect
from linjax.evidence.stats import Stats, merge
from linjax.graph.net import Net, trace

__all__ = ["EvidenceError", "FoldWarning", "LinjaxError", "Net", "Stats", "StructureError", "collect", "merge", "trace"]
