"""How sharply the loss bends at the start, and how large a step it therefore allows.

The largest eigenvalue of the loss's Hessian, which is never built: Lanczos asks for products of it
with vectors alone, and one such product costs about two gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import ArrayLike, Float

from jinit import checks
from jinit.models.tracing.model import TracedModel, face

Product = Callable[[np.ndarray], np.ndarray]

DENSE = 24
"""Up to so many parameters the matrix is written out, as ARPACK needs more than it finds."""


class StableRates(NamedTuple):
    """Largest learning rates that a quadratic of this curvature allows; above them it diverges."""

    gradient_descent: float
    """2 / lambda"""
    heavy_ball: float
    """2 (1 + momentum) / lambda, of `optax.sgd(rate, momentum=momentum)`"""
    adam: float
    """(2 + 2 beta1) / ((1 - beta1) lambda_P), with the preconditioner kept as it is"""
    preconditioned: float
    """lambda_P: the largest eigenvalue of P^(-1/2) H P^(-1/2)"""


class Sharpness(NamedTuple):
    """The top of the Hessian's spectrum."""

    eigenvalues: Float[np.ndarray, " count"]
    """the algebraically largest, in descending order"""
    residuals: Float[np.ndarray, " count"]
    """|H v - lambda v| / |lambda_1| of each: by no more is it off, relative to the first"""
    direction: Any
    """the first eigenvector, of length 1, as a pytree like the variables; 0 of leaves that are not
    moved"""
    products: int
    """of a Hessian with a vector that it took, those for `rates` included"""
    rates: StableRates | None = None
    """where they were asked for"""

    @property
    def largest(self) -> float:
        """The largest eigenvalue, in units of the loss over those of the parameters squared."""
        return float(self.eigenvalues[0])

    def __str__(self) -> str:  # noqa: D105
        text = (
            f"Sharpness {self.largest:.4g} (to {self.residuals[0]:.0e} of it, after "
            f"{self.products} products)."
        )
        if self.rates is None:
            return text
        r = self.rates
        return (
            f"{text} Largest stable learning rates at the start: gradient descent "
            f"{r.gradient_descent:.3g}, heavy ball {r.heavy_ball:.3g}, Adam {r.adam:.3g}."
        )


@face
def sharpness(
    model: TracedModel,
    key: jax.Array,
    variables: Any = None,
    *,
    targets: Any = None,
    count: int = 1,
    rates: bool = False,
    momentum: ArrayLike = 0.9,
    beta1: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    second_moments: Any = None,
    tolerance: ArrayLike = 1e-3,
    max_products: int = 2000,
) -> Sharpness:
    """The largest eigenvalues of the loss's Hessian, and the learning rates that they allow.

        lambda = max over |v| = 1 of  v^T H v,      H = d^2 L / d theta^2

    A quadratic of curvature lambda lets gradient descent converge below a rate of 2/lambda. A
    network differs: at up to 4/lambda it may catapult to a flatter place and train on (Lewkowycz
    et al. 2020), and training drives lambda to where the rate just holds it (Cohen et al. 2021). So
    this is the scale on which to search, at the start, on this batch.

    For Adam, P is the diagonal that its step is divided by, held as it is: sqrt(nu) + eps of
    `second_moments`, or else of its first step, whose bias-corrected nu is g^2, so P = |g| + eps.
    An entry whose first gradient happens to be small has a P that is too small, and the rate comes
    out on the safe side, often far; after some steps of training the optimizer's own moments tell
    more.

    Args:
        key: one PRNG key, for the vector that Lanczos begins with.
        apply, variables, *inputs, loss, rules: as for `jinit.Model`. Every floating-point leaf
            moves, except statistics and what is not used.
        loss: `loss(output) -> scalar`, or `loss(output, targets)` with `targets=`.
        targets: of the batch.
        count: eigenvalues.
        rates: whether to give the largest stable learning rates.
        momentum: of the heavy ball.
        beta1, eps: of Adam.
        second_moments: a pytree like the variables: Adam's nu, bias-corrected, as
            `nu / (1 - beta2**count)`; None takes that of the first step.
        tolerance: of the residuals, relative to the eigenvalue.
        max_products: after so many, it gives up.

    Returns:
        `Sharpness`. Products are computed in the model's precision, with matrix products at
        "highest", and added up in float64, on the host: this function is not for use in `jit`.
        It keeps some twenty vectors as long as all parameters together.

    Raises:
        TypeError: a model without a loss; shapes without numbers.
        ValueError: a loss that is no scalar, or has no positive curvature; a Hessian that is not
            finite; no convergence; numbers that are not allowed.

    >>> import jax, jax.numpy as jnp, jinit
    >>> found = jinit.models.sharpness(
    ...     jax.random.key(0), lambda p, x: p["w"] * x, {"w": jnp.ones(3)}, jnp.array([1.0, 2, 3]),
    ...     loss=lambda out: jnp.mean(out**2), rates=True)
    >>> round(found.largest, 4), round(found.rates.gradient_descent, 4)
    (6.0, 0.3333)

    Source: Cohen et al. 2021, "Gradient descent on neural networks typically occurs at the edge of
    stability", section 2 and appendix B; Cohen et al. 2022, "Adaptive gradient methods at the edge
    of stability", section 3, for Adam.
    """
    key = checks.key(key)
    count = checks.count("count", count)
    max_products = checks.count("max_products", max_products)
    momentum, beta1 = _share("momentum", momentum), _share("beta1", beta1)
    eps, tolerance = _positive("eps", eps), _positive("tolerance", tolerance)
    model = model.of(variables)
    model.check_numbers("sharpness")
    curved = _Curved(model, targets, max_products)
    if count > len(curved.start):
        raise ValueError(
            f"count must be at most the number of parameters, {len(curved.start)}, got {count}."
        )
    first = np.asarray(jax.random.normal(key, (len(curved.start),)), np.float64)
    values, residuals, vectors = _top(curved.product, first, count, tolerance)
    _check_positive(values[0])
    found = None
    if rates:
        root = np.sqrt(curved.preconditioner(second_moments, eps))
        precise, *_ = _top(lambda v: curved.product(v / root) / root, first, 1, tolerance)
        _check_positive(precise[0])
        found = StableRates(
            2 / values[0], 2 * (1 + momentum) / values[0],
            2 * (1 + beta1) / (1 - beta1) / precise[0], precise[0],
        )  # fmt: skip
        found = StableRates(*map(float, found))
    direction = curved.tree(vectors[:, 0])
    return Sharpness(values, residuals, direction, curved.products, found)


def _share(name: str, value: Any) -> float:
    checks.number(name, value)
    if not 0 <= float(value) < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {checks.shown(value)}.")
    return float(value)


def _positive(name: str, value: Any) -> float:
    checks.number(name, value)
    if not float(value) > 0:
        raise ValueError(f"{name} must be positive, got {checks.shown(value)}.")
    return float(value)


def _check_positive(largest: float) -> None:
    if not largest > 0:
        raise ValueError(
            f"the loss has no positive curvature in any direction, its largest eigenvalue is "
            f"{largest:.3g}, so that no learning rate is too large for it: it is linear in the "
            f"parameters, or at a top, or does not depend on them; jinit.diagnose shows what is "
            f"dead."
        )


class _Curved:
    """The loss as a function of one vector: its gradient, and products with its Hessian."""

    def __init__(self, model: TracedModel, targets: Any, max_products: int) -> None:
        loss = model.loss_of(targets)
        kinds = [role.kind for role in model.judged(strict=False)]
        floats = [jnp.asarray(leaf) for leaf in model.floats]
        self.model, self.max_products, self.products = model, max_products, 0
        self.moved = [i for i, kind in enumerate(kinds) if kind not in ("statistic", "unused")]
        wide = [floats[i].astype(np.promote_types(floats[i].dtype, np.float32)) for i in self.moved]
        if not wide:
            raise ValueError("sharpness needs a parameter that the output depends on, got none.")
        self.dtype = np.result_type(*(leaf.dtype for leaf in wide))
        self.sizes = np.cumsum([leaf.size for leaf in wide])[:-1]
        self.start = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in wide])

        def value(vector: jax.Array) -> Any:
            own = list(floats)
            for i, part in zip(self.moved, jnp.split(vector, self.sizes), strict=True):
                own[i] = part.reshape(floats[i].shape).astype(floats[i].dtype)
            return loss(model.apply(model.rebuilt(own), *model.inputs))

        at = jnp.asarray(self.start, self.dtype)
        traced, out = jax.make_jaxpr(value, return_shape=True)(at)
        checks.loss_value(out)
        run = jaxpr_as_fun(traced)
        gradient = jax.grad(lambda vector: run(vector)[0])

        @jax.jit
        def product(at: jax.Array, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
            # The Hessian is symmetric: pulling back is multiplying, and asks for no forward
            # mode, which a function with a derivative of its own may not have.
            slope, pull = jax.vjp(gradient, at)
            return slope, pull(vector)[0]

        self._product, self._at = product, at
        self.gradient: Any = None  # known after the first product

    def product(self, vector: np.ndarray) -> np.ndarray:
        """H v, in float64."""
        if self.products >= self.max_products:
            raise ValueError(
                f"no eigenvalue has converged after {self.products} products; give a larger "
                f"max_products, or a larger tolerance."
            )
        self.products += 1
        self.gradient, out = self._product(self._at, jnp.asarray(vector, self.dtype))
        found = np.asarray(out, np.float64)
        if not np.isfinite(found).all():
            raise ValueError(
                "the Hessian of the loss holds NaN or infinity; jinit.diagnose shows where the "
                "signal or its gradient leaves what floating-point numbers can hold."
            )
        return found

    def preconditioner(self, second_moments: Any, eps: float) -> np.ndarray:
        """What Adam divides by, entry by entry."""
        if second_moments is None:
            return np.abs(np.asarray(self.gradient, np.float64)) + eps
        structure: Any = jax.tree.structure(self.model.variables)
        if jax.tree.structure(second_moments) != structure:
            raise ValueError(
                f"second_moments must be a tree like the variables, {structure}, got "
                f"{jax.tree.structure(second_moments)}."
            )
        leaves = jax.tree.leaves(second_moments)
        chosen = [np.asarray(leaves[self.model.trace.chosen[i]], np.float64) for i in self.moved]
        return np.sqrt(np.concatenate([leaf.ravel() for leaf in chosen])) + eps

    def tree(self, vector: np.ndarray) -> Any:
        """A vector as a pytree like the variables."""
        own = [jnp.zeros_like(leaf) for leaf in self.model.floats]
        for i, part in zip(self.moved, np.split(vector, self.sizes), strict=True):
            own[i] = jnp.asarray(part.reshape(own[i].shape), own[i].dtype)
        return self.model.rebuilt(own)


def _top(
    product: Product, first: np.ndarray, count: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Largest eigenvalues in descending order, their residuals, their vectors as columns."""
    size = len(first)
    if size <= max(DENSE, 2 * count + 1):
        matrix = np.stack([product(row) for row in np.eye(size)])
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    elif not product(first).any():
        values, vectors = np.zeros(count), np.eye(size, count)  # ARPACK would not begin
    else:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        try:
            values, vectors = eigsh(operator, count, which="LA", v0=first, tol=tolerance)
        except ArpackNoConvergence as error:
            raise ValueError(f"no eigenvalue has converged ({error}); raise tolerance.") from None
    order = np.argsort(values)[::-1][:count]
    values, vectors = values[order], vectors[:, order]
    off = [product(v) - value * v for value, v in zip(values, vectors.T, strict=True)]
    scale = abs(values[0]) or 1.0
    return values, np.array([np.linalg.norm(o) / scale for o in off]), vectors
