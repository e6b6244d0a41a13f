"""Writes the files that every later linjax must read: ``python -m tests.store.golden.make``.

They are made once for each version of the format and then left as they are.
"""

from pathlib import Path

import numpy as np

import linjax
from linjax.store.manifest import SCHEMA
from tests.store import networks

FOLDER = Path(__file__).parent


def main() -> None:
    net, params, x = networks.network(width=8)
    stats = linjax.collect(net, params, [x])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.6))
    measured = linjax.compare(net, params, small, [x])
    arrays = {"x": x[:5]}
    for name, tree in (("original", params), ("folded", small)):
        told = {"report": report, "measured": measured, "note": "golden"} if tree is small else {}
        linjax.save(FOLDER / f"{name}_{SCHEMA}.safetensors", net, tree, **told)
        arrays[name] = net.apply(tree, x[:5])
    np.savez(FOLDER / f"outputs_{SCHEMA}.npz", **arrays)


if __name__ == "__main__":
    main()
