"""Time of ``collect`` against the forward pass and against the products it needs.

python -m experiments.benchmarks.collect
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import linjax
from experiments.benchmarks import reference
from experiments.benchmarks.reference import Ratio
from experiments.evaluate import medians


def gram(blocks: list[Any]) -> list[Any]:
    """The lower triangle of blocks of ``aᵀ a``, for two folds of the rows: no more, no less."""
    result = []
    for fold in (0, 1):
        a = jnp.concatenate(blocks, axis=1)[fold::2]
        end = 0
        for block in blocks:
            start, end = end, end + block.shape[1]
            result.append(
                lax.dot_general(
                    a[:, start:end],
                    a[:, :end],
                    (((0,), (0,)), ((), ())),
                    precision=lax.Precision.HIGHEST,
                )
            )
    return result


def ratios() -> list[Ratio]:
    """Times statistics, the forward pass, and the products that second moments need."""
    (net, params), batches = reference.network(), reference.batches()
    forward = jax.jit(net.apply_fn)

    @jax.jit
    def products(params: Any, x: Any) -> Any:
        blocks, parts = [x], list(params["layers"].values())
        for part in parts[:-1]:
            blocks.append(jax.nn.relu(blocks[-1] @ part["kernel"] + part["bias"]))
        return blocks[-1] @ parts[-1]["kernel"], gram(blocks)

    plain, light, needed, full = medians(
        lambda: [forward(params, x) for x in batches],
        lambda: linjax.collect(net, params, batches, second_moments=False).seen[0].active,
        lambda: [jax.block_until_ready(products(params, x)) for x in batches],
        lambda: linjax.collect(net, params, batches).seen[0].active,
        runs=5,
    )
    return [
        Ratio("collect: counts, means, variances", light, "forward pass", plain),
        Ratio("collect: second moments, too", full, "forward pass and their products", needed),
    ]


if __name__ == "__main__":
    reference.show(ratios())
