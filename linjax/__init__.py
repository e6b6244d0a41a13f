"""linjax: smaller networks without retraining, by exploiting linearity."""

import importlib
from typing import TYPE_CHECKING, Any

from linjax.chains.structure import Graph
from linjax.dims.network import Network
from linjax.dims.run import Outcome
from linjax.dims.sites import Site
from linjax.errors import EvidenceError, FoldWarning, LinjaxError, StoreError, StructureError
from linjax.evidence.bounds import Bounds, How, SiteBounds, Verdict
from linjax.evidence.certify.check import SiteCheck
from linjax.evidence.certify.network import CertificateCheck, certify, check_certificate
from linjax.evidence.collect import collect
from linjax.evidence.limits import Limits
from linjax.evidence.scale import OutputStats
from linjax.evidence.score import Scores, UnitScores, score
from linjax.evidence.stats import Stats, UnitStats, merge
from linjax.fold.check.corrected import corrected
from linjax.fold.compare import Comparison, compare, relative_error
from linjax.fold.compress import compress
from linjax.fold.coverage import Shares, coverage
from linjax.fold.engine.cost import State
from linjax.fold.engine.plan import Plan
from linjax.fold.fold import Folded, fold, fold_and_report
from linjax.fold.frontier import Frontier, frontier
from linjax.fold.lossless.lump import Lumped, LumpReport, lump, lump_and_report
from linjax.fold.prune import prune
from linjax.fold.quantise import quantise
from linjax.fold.recover import recover
from linjax.fold.recoverability import Recoverability, SiteRecoverability, recoverability
from linjax.fold.report import Report, SiteChange
from linjax.fold.rules import (
    PublishedSize,
    Rule,
    Size,
    Threshold,
    Tolerance,
    published_size,
    size,
    threshold,
    tolerance,
)
from linjax.net import Net, trace
from linjax.program.count import count
from linjax.store.export import Program, to_stablehlo
from linjax.store.load import StoredNet, load
from linjax.store.manifest import Manifest
from linjax.store.onnx import to_onnx
from linjax.store.save import save
from linjax.training.carry import carry_over

if TYPE_CHECKING:
    from linjax import baselines, penalties
    from linjax.frameworks.nnx import FoldedModule, from_nnx, to_nnx
    from linjax.training import checkpoint

__version__ = "0.2.0"

__all__ = [
    "Bounds",
    "CertificateCheck",
    "Comparison",
    "EvidenceError",
    "FoldWarning",
    "Folded",
    "FoldedModule",
    "Frontier",
    "Graph",
    "How",
    "Limits",
    "LinjaxError",
    "LumpReport",
    "Lumped",
    "Manifest",
    "Net",
    "Network",
    "Outcome",
    "OutputStats",
    "Plan",
    "Program",
    "PublishedSize",
    "Recoverability",
    "Report",
    "Rule",
    "Scores",
    "Shares",
    "Site",
    "SiteBounds",
    "SiteChange",
    "SiteCheck",
    "SiteRecoverability",
    "Size",
    "State",
    "Stats",
    "StoreError",
    "StoredNet",
    "StructureError",
    "Threshold",
    "Tolerance",
    "UnitScores",
    "UnitStats",
    "Verdict",
    "baselines",
    "carry_over",
    "certify",
    "check_certificate",
    "checkpoint",
    "collect",
    "compare",
    "compress",
    "corrected",
    "count",
    "coverage",
    "fold",
    "fold_and_report",
    "from_nnx",
    "frontier",
    "load",
    "lump",
    "lump_and_report",
    "merge",
    "penalties",
    "prune",
    "published_size",
    "quantise",
    "recover",
    "recoverability",
    "relative_error",
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


_MODULES = {
    "baselines": "linjax.baselines",
    "checkpoint": "linjax.training.checkpoint",
    "penalties": "linjax.penalties",
}


def __getattr__(name: str) -> Any:
    """Imports what not everybody needs when it is asked for: Flax takes longer than the rest."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in ("FoldedModule", "from_nnx", "to_nnx"):
        return getattr(importlib.import_module("linjax.frameworks.nnx"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
