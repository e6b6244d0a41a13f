"""Penalties that make networks foldable while they are trained: add one to any loss."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["interval_bounds", "l1", "polarised", "stability"]

Array = Any


def l1(params: Any) -> Array:
    """Sum of the magnitudes of all kernels, as in exact compression of 2020.

    Kernels are the leaves of at least two dimensions; biases are left alone. Sparse
    incoming weights keep more units on one side of zero over a box of inputs.

    Args:
      params: a pytree of arrays.

    Returns:
      ``Σ |w|``, a scalar.

    References:
      Serra, Kumar and Ramalingam, Lossless compression of deep neural networks, 2020,
      arXiv 2001.00218.

    Example:
      >>> import jax.numpy as jnp
      >>> from linjax import penalties
      >>> float(penalties.l1({"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.ones(2)}))
      3.0
    """
    kernels = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    return sum((jnp.sum(jnp.abs(kernel)) for kernel in kernels), start=jnp.zeros(()))


def stability(lower: Array, upper: Array) -> Array:
    """ReLU-stability loss: small where bounds of pre-activations have one sign.

    ``−mean tanh(1 + lower · upper)``: the product of the bounds of a unit is negative if
    zero lies between them.

    Args:
      lower: lower bounds of pre-activations, of any shape, for example from
        :func:`interval_bounds`.
      upper: upper bounds, of the same shape.

    Returns:
      A scalar in (-1, 1).

    References:
      Xiao, Tjeng, Shafiullah and Madry, Training for faster adversarial robustness
      verification via inducing ReLU stability, 2018, arXiv 1809.03008.

    Example:
      >>> import jax.numpy as jnp
      >>> from linjax import penalties
      >>> stable = penalties.stability(jnp.array([1.0]), jnp.array([2.0]))
      >>> unstable = penalties.stability(jnp.array([-1.0]), jnp.array([2.0]))
      >>> bool(stable < unstable)
      True
    """
    return -jnp.mean(jnp.tanh(1 + lower * upper))


def interval_bounds(kernel: Array, bias: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Differentiable interval bounds of ``v @ kernel + bias``, for :func:`stability`.

    In floating point as it comes: for training, not for proofs.

    Args:
      kernel: ``(p, q)``.
      bias: ``(q,)``.
      lower: ``(..., p)`` lower bounds of v; behind a ReLU ``jax.nn.relu`` of its bounds.
      upper: ``(..., p)`` upper bounds of v.

    Returns:
      Lower and upper bounds, ``(..., q)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from linjax import penalties
      >>> low, high = penalties.interval_bounds(
      ...     jnp.array([[1.0], [-1.0]]), jnp.zeros(1), jnp.zeros(2), jnp.ones(2))
      >>> low.tolist(), high.tolist()
      ([-1.0], [1.0])
    """
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    middle, spread = centre @ kernel + bias, radius @ jnp.abs(kernel)
    return middle - spread, middle + spread


def polarised(preactivations: Array, temperature: float = 1.0) -> Array:
    """Pushes every unit's activation rate to 0 or 1.

    ``4 mean_i r_i (1 − r_i)`` with the soft rate ``r_i = mean_x sigmoid(z_i(x) / T)``: zero
    where every unit is always on or always off, one where all are on half of the time.

    Args:
      preactivations: ``(..., k)`` pre-activations z of k units over a batch.
      temperature: T, the width of the soft step, in units of z.

    Returns:
      A scalar in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from linjax import penalties
      >>> z = jnp.array([[9.0, 1.0], [9.0, -1.0]])
      >>> [round(float(penalties.polarised(z[:, i : i + 1])), 3) for i in (0, 1)]
      [0.0, 1.0]
    """
    soft = jax.nn.sigmoid(preactivations / temperature)
    rate = jnp.mean(soft, axis=tuple(range(jnp.ndim(preactivations) - 1)))
    return 4 * jnp.mean(rate * (1 - rate))
