"""The stages of folding a decoder: made, written, read, traced, measured, folded, written, read."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

import linjax
from experiments.large import checkpoint, decoder
from experiments.large.stages import Stages


def run(config: Any, folder: Path) -> Stages:
    """Makes a decoder if the folder has none yet; reads, folds and writes it."""
    done = Stages()
    shutil.rmtree(folder / "evidence", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    bytes_of = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(decoder.shapes(config)))
    if not (folder / "original").exists():
        with done.stage("random parameters, to Orbax", 2 * bytes_of):
            checkpoint.write(folder / "original", decoder.random(config))
    with done.stage("parameters from Orbax", bytes_of):
        params = checkpoint.read(folder / "original", decoder.shapes(config))
    with done.stage("trace"):
        net = decoder.traced(config)
        print(net, f"\n{linjax.count(params):,} parameters", flush=True)
    limits = linjax.Limits(bytes=int(config.evidence * 1e9))
    data = decoder.batches(config)
    # What a pass taps: 2 for every unit, value, query and key of a layer and token, of two bytes.
    tapped = config.layers * config.batch * config.length
    tapped *= 2 * (2 * config.hidden + 4 * config.heads * config.head)
    with done.stage("collect", limits.bytes + tapped):
        stats = linjax.collect(net, params, data, limits=limits, folder=folder / "evidence")
    with done.stage("frontier"):
        known = linjax.frontier(params, stats)
        print(known, flush=True)
    widest = max(p.repeats * p.width**2 for p in known.problems.problems)  # a site's matrices
    with done.stage("fold", 8 * widest + bytes_of):
        small, report = linjax.fold_and_report(params, known, linjax.size(config.share))
        print(report, flush=True)
    with done.stage("folded parameters, to Orbax"):
        checkpoint.write(folder / "folded", small)
    with done.stage("folded parameters, from Orbax", bytes_of):
        again = checkpoint.read(folder / "folded", jax.eval_shape(lambda leaves: leaves, small))
        assert all(map(np.array_equal, jax.tree.leaves(small), jax.tree.leaves(again)))
        del again
    with done.stage("both on a batch"):
        found = linjax.compare(net, params, small, data[:1], metric="identity")
        print(f"measured relative error of the logits {found.error:.3g}")
    return done
