"""linjax: smaller networks without retraining, by exploiting linearity."""

from typing import TYPE_CHECKING, Any

from linjax.errors import EvidenceError, FoldWarning, LinjaxError, StoreError, StructureError
from linjax.evidence.bounds import Bounds
from linjax.evidence.certify.network import certify, check_certificate
from linjax.evidence.collect import collect
from linjax.evidence.score import score
from linjax.evidence.stats import Stats, merge
from linjax.fold.compare import Comparison, compare
from linjax.fold.compress import compress
from linjax.fold.fold import fold
from linjax.fold.frontier import Frontier, frontier
from linjax.fold.lossless.lump import lump
from linjax.fold.prune import prune
from linjax.fold.recover import recover
from linjax.fold.recoverability import recoverability
from linjax.fold.rules import published_size, size, threshold, tolerance
from linjax.net import Net, trace
from linjax.program.count import count
from linjax.store.export import to_stablehlo
from linjax.store.load import load
from linjax.store.onnx import to_onnx
from linjax.store.save import save
from linjax.training.carry import carry_over

if TYPE_CHECKING:
    from linjax.frameworks.nnx import from_nnx, to_nnx

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "Comparison",
    "EvidenceError",
    "FoldWarning",
    "Frontier",
    "LinjaxError",
    "Net",
    "Stats",
    "StoreError",
    "StructureError",
    "carry_over",
    "certify",
    "check_certificate",
    "collect",
    "compare",
    "compress",
    "count",
    "fold",
    "from_nnx",
    "frontier",
    "load",
    "lump",
    "merge",
    "prune",
    "published_size",
    "recover",
    "recoverability",
    "save",
    "score",
    "size",
    "threshold",
    "to_nnx",
    "to_onnx",
    "to_stablehlo",
    "tolerance",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Imports Flax when it is asked for: it takes longer than the rest."""
    if name in ("from_nnx", "to_nnx"):
        from linjax.frameworks import nnx

        return getattr(nnx, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
