"""Random networks with planted units, for property tests: the right answer is known."""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np


class Planted(NamedTuple):
    """A dense network as a bare function, and what was planted in it.

    Attributes:
      apply_fn: ``apply_fn(params, x)``.
      params: nested dict with names that tell nothing about the order.
      x: inputs in [-1, 1], float64.
      on: by layer, mask of the units that are on for every input.
      off: by layer, mask of the units that are off for every input.
      twins: by layer, pairs (unit, copy) of proportional units.
    """

    apply_fn: Any
    params: dict[str, Any]
    x: np.ndarray
    on: list[np.ndarray]
    off: list[np.ndarray]
    twins: list[tuple[int, int] | None]


WRAPS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "remat": jax.checkpoint,
}


@st.composite
def planted(
    draw: Any, max_depth: int = 6, max_width: int = 64, bias: bool | None = None
) -> Planted:
    """Draws a network of 1 to ``max_depth`` hidden layers with planted units."""
    depth = draw(st.integers(1, max_depth))
    ends = [draw(st.integers(1, max_width)) for _ in range(2)]
    inner = [draw(st.integers(2, max_width)) for _ in range(depth)]  # one unit is no site
    widths = [ends[0], *inner, ends[1]]
    seed = draw(st.integers(0, 2**31))
    with_bias = draw(st.booleans()) if bias is None else bias
    wraps = [draw(st.sampled_from(sorted(WRAPS))) for _ in range(depth + 1)]
    slope = draw(st.sampled_from([0.0, 0.0, 0.1]))
    rng = np.random.default_rng(seed)
    names = [f"m{int(i)}" for i in rng.permutation(depth + 1)]
    x = rng.uniform(-1, 1, (40, widths[0]))
    params: dict[str, Any] = {}
    on, off, twins = [], [], []
    v = x
    for layer in range(depth + 1):
        p, q = widths[layer], widths[layer + 1]
        kernel = rng.normal(size=(p, q)) / np.sqrt(p)
        shift = rng.normal(size=q) * 0.3
        if layer < depth:
            fate = rng.integers(0, 3, q) if with_bias else np.full(q, 2)
            z = v @ kernel
            if with_bias:
                reach = np.abs(v).max(0) @ np.abs(kernel) + 0.1
                shift = np.where(fate == 0, reach, np.where(fate == 1, -reach, shift))
                z = z + shift
            twin = None
            if q > 1 and draw(st.booleans()):
                kernel[:, 1], shift[1] = 2.0 * kernel[:, 0], 2.0 * shift[0]
                z = v @ kernel + (shift if with_bias else 0.0)
                twin = (0, 1)
            twins.append(twin)
            on.append((z > 0).all(0))
            off.append((z < 0).all(0))
            v = np.where(z > 0, z, slope * z)
        params[names[layer]] = {"w": kernel} | ({"b": shift} if with_bias else {})

    def dense(part: dict[str, Any], h: Any) -> Any:
        z = h @ part["w"]
        return z + part["b"] if with_bias else z

    stages = [WRAPS[wrap](dense) for wrap in wraps]

    def apply_fn(params: dict[str, Any], x: Any) -> Any:
        h = x
        for layer, stage in enumerate(stages):
            h = stage(params[names[layer]], h)
            if layer < depth:
                h = jax.nn.leaky_relu(h, slope) if slope else jax.nn.relu(h)
        return h

    return Planted(apply_fn, params, x, on, off, twins)


def cast(params: Any, dtype: Any) -> Any:
    """Casts every leaf."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def relative(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.size else 0.0
