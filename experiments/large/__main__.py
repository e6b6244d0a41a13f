"""Folds a decoder of random parameters within a limit of memory, and says what took how long.

    python -m experiments.large --config=configs/large_decoder.py --workdir=runs/large

Parameters are written to Orbax and read from it in pieces, second moments are gathered in several
passes (``limits``) and kept in files (``folder``), and the fold reads them a few layers at a time.
Ends with an error if more memory was resident than ``--config.memory`` gigabytes.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

# XLA on CPUs takes it for progress to make float32 copies of all layers' kernels before a loop.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_disable_hlo_passes=while-loop-invariant-code-motion"
)

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

import linjax
from experiments.large import checkpoint, decoder
from experiments.large.stages import Stages

CONFIG = config_flags.DEFINE_config_file("config", "configs/large_decoder.py", "The decoder.")
WORKDIR = flags.DEFINE_string("workdir", "runs/large", "Folder for checkpoints and evidence.")


def run(config: Any, folder: Path) -> Stages:
    """Makes, reads, folds and writes a decoder."""
    done = Stages()
    shutil.rmtree(folder / "evidence", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    bytes_of = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(decoder.shapes(config)))
    with done.stage("random parameters, to Orbax", 2 * bytes_of):
        checkpoint.write(folder / "original", decoder.random(config))
    with done.stage("parameters from Orbax", bytes_of):
        params = checkpoint.read(folder / "original", decoder.shapes(config))
    with done.stage("trace"):
        net = decoder.traced(config)
        print(net, f"\n{linjax.count(params):,} parameters", flush=True)
    limits = linjax.Limits(bytes=int(config.evidence * 1e9))
    data = decoder.batches(config)
    with done.stage("collect", limits.bytes + activations(config)):
        stats = linjax.collect(net, params, data, limits=limits, folder=folder / "evidence")
    with done.stage("frontier"):
        known = linjax.frontier(params, stats)
        print(known, flush=True)
    with done.stage("fold", 8 * widest(known) + bytes_of):
        small, report = linjax.fold_and_report(params, known, linjax.size(config.share))
        print(report, flush=True)
    with done.stage("folded parameters, to Orbax"):
        checkpoint.write(folder / "folded", small)
    with done.stage("folded parameters, from Orbax", bytes_of):
        again = checkpoint.read(folder / "folded", jax.tree.map(as_shape, small))
        assert all(map(np.array_equal, jax.tree.leaves(small), jax.tree.leaves(again)))
        del again
    with done.stage("both on a batch"):
        a, b = (jax.jit(net.apply)(p, data[0]) for p in (params, small))
        centred = a - a.mean((0, 1))
        error = np.sqrt(np.square(b - a).sum() / np.square(centred).sum())
        print(f"measured relative error of the logits {error:.3g}")
    return done


def as_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf's shape and dtype."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def activations(config: Any) -> int:
    """Bytes of what a pass taps: 2 for every unit, value, query and key of a layer and token."""
    each = 2 * config.hidden + 4 * config.heads * config.head
    return int(config.layers * config.batch * config.length * each * 2)


def widest(known: linjax.Frontier) -> int:
    """Entries of the largest site's decoder matrices, ``n m²``."""
    return max(p.repeats * p.width**2 for p in known.problems.problems)


def main(argv: list[str]) -> None:
    """Runs, and compares the peak with the limit."""
    del argv
    logging.set_verbosity(logging.WARNING)  # Orbax tells much
    config = CONFIG.value
    done = run(config, Path(WORKDIR.value))
    print(done)
    if done.peak > config.memory * 1e9:
        sys.exit(f"{done.peak:,} bytes were resident, more than the {config.memory} GB allowed")


if __name__ == "__main__":
    app.run(main)
