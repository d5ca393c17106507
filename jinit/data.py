"""Data to train on, as plain arrays: real digits, toy sets, noise, and your own.

Everything here is embedded in scikit-learn or drawn; nothing is downloaded.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jinit import checks

__all__ = ["Data", "circles", "digits", "from_arrays", "gaussian", "moons"]


class Data(NamedTuple):
    """A data set as plain arrays.

    `x_train` [train, features], `y_train` [train], `x_test` [test, features], `y_test` [test].
    Labels are integers from 0, or floats [samples, outputs] for regression.
    """

    x_train: Float[jax.Array | np.ndarray, "train features"]
    y_train: Num[jax.Array | np.ndarray, "train ..."]
    x_test: Float[jax.Array | np.ndarray, "test features"]
    y_test: Num[jax.Array | np.ndarray, "test ..."]


def digits(*, test_fraction: float = 0.2, standardize: bool = True, seed: int = 0) -> Data:
    """1797 handwritten digits of 8 x 8 pixels, ten classes.

    Args:
        test_fraction: the share held out, with equal class frequencies.
        standardize: every pixel to mean 0 and variance 1 over the training half (pixels that never
            vary become 0); False keeps the grey values 0 to 16.
        seed: of the split.

    Source: Alpaydin & Kaynak 1998, the test half of UCI's optical digits, as embedded in
    scikit-learn.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return from_arrays(x, y, test_fraction=test_fraction, standardize=standardize, seed=seed)


def circles(
    samples: int = 1000,
    *,
    noise: float = 0.05,
    factor: float = 0.8,
    test_fraction: float = 0.2,
    standardize: bool = True,
    seed: int = 0,
) -> Data:
    """Two concentric circles in the plane, two classes (scikit-learn's `make_circles`)."""
    from sklearn.datasets import make_circles

    samples, seed = checks.count("samples", samples, least=4), _seed(seed)
    checks.number("noise", noise, least=0)
    checks.number("factor", factor, least=0)
    if factor >= 1:
        raise ValueError(f"factor must be below 1, the outer radius, got {checks.shown(factor)}.")
    x, y = make_circles(samples, noise=float(noise), factor=float(factor), random_state=seed)
    return from_arrays(x, y, test_fraction=test_fraction, standardize=standardize, seed=seed)


def moons(
    samples: int = 1000,
    *,
    noise: float = 0.1,
    test_fraction: float = 0.2,
    standardize: bool = True,
    seed: int = 0,
) -> Data:
    """Two interleaved half moons in the plane, two classes (scikit-learn's `make_moons`)."""
    from sklearn.datasets import make_moons

    samples, seed = checks.count("samples", samples, least=4), _seed(seed)
    checks.number("noise", noise, least=0)
    x, y = make_moons(samples, noise=float(noise), random_state=seed)
    return from_arrays(x, y, test_fraction=test_fraction, standardize=standardize, seed=seed)


def gaussian(
    key: jax.Array,
    samples: int = 1000,
    features: int = 500,
    *,
    classes: int = 10,
    test_fraction: float = 0.2,
) -> Data:
    """Inputs from N(0, I), labelled by the largest output of a random linear teacher."""
    key = checks.key(key)
    samples = checks.count("samples", samples, least=2)
    features = checks.count("features", features)
    classes = checks.count("classes", classes, least=2)
    x_key, teacher_key = jax.random.split(key)
    x = np.asarray(jax.random.normal(x_key, (samples, features)))
    teacher = np.asarray(jax.random.normal(teacher_key, (features, classes)))
    y = np.argmax(x @ teacher, axis=1).astype(np.int32)
    fraction = _fraction(test_fraction)
    cut = samples - round(samples * fraction)
    if not 0 < cut < samples:
        raise ValueError(
            f"test_fraction must leave a sample for each half, got {test_fraction!r} of {samples} "
            f"samples; give more samples, or a fraction nearer to 0.5."
        )
    return Data(x[:cut], y[:cut], x[cut:], y[cut:])


def from_arrays(
    x: Float[ArrayLike, "samples features"],
    y: Num[ArrayLike, "samples ..."],
    *,
    test_fraction: float = 0.2,
    standardize: bool = True,
    seed: int = 0,
) -> Data:
    """Your own arrays, split into a training and a test half.

    Args:
        x: inputs, finite numbers.
        y: integer labels from 0 (the split then keeps class frequencies), or float targets.
        test_fraction: the share held out.
        standardize: every feature to mean 0 and variance 1 over the training half; features that
            never vary become 0.
        seed: of the split.

    Returns:
        float32 inputs; int32 labels or float32 targets.

    Raises:
        ValueError, TypeError: NaN, text, shapes that do not fit each other, labels below 0, a half
            without samples, or one that cannot hold every class.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    fraction, seed = _fraction(test_fraction), _seed(seed)
    standardize = checks.flag("standardize", standardize)
    x, y = _numbers("x", x).astype(np.float64), _numbers("y", y)
    if x.ndim != 2 or not x.size:
        raise ValueError(
            f"x must have shape [samples, features], got {list(x.shape)}; "
            f"flatten images with x.reshape(len(x), -1)."
        )
    if y.shape[:1] != x.shape[:1] or not y.size:
        raise ValueError(
            f"x and y must have one row per sample, got {x.shape[0]} rows of x and y of shape "
            f"{list(y.shape)}."
        )
    labels = y.dtype.kind in "biu"
    if labels and not 0 <= y.min() <= y.max() <= _LARGEST_LABEL:
        wrong = y.min() if y.min() < 0 else y.max()
        raise ValueError(f"labels in y must count from 0, got {int(wrong)}; renumber them.")
    stratify = y if labels and y.ndim == 1 else None
    _check_halves(len(x), fraction, stratify)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=fraction, random_state=seed, stratify=stratify
    )
    if standardize:
        scaler = StandardScaler().fit(x_train)
        x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    kind: Any = np.int32 if labels else np.float32
    return Data(
        x_train.astype(np.float32), y_train.astype(kind),
        x_test.astype(np.float32), y_test.astype(kind),
    )  # fmt: skip


_LARGEST_LABEL = 2**31 - 1


def _numbers(what: str, value: Any) -> np.ndarray:
    """A finite array that float32 can hold."""
    checks.numeric(what, value)
    checks.finite(what, value)
    array = np.asarray(value)
    if array.dtype.kind == "V":  # bfloat16 and its like
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and array.size and np.abs(array).max() > np.finfo(np.float32).max:
        raise ValueError(f"{what} must fit into float32, got numbers above 3.4e38; rescale it.")
    return array


def _check_halves(samples: int, fraction: float, classes: Any) -> None:
    """scikit-learn rounds the test half up; with labels either half holds every class."""
    test = math.ceil(samples * fraction)
    counts = np.unique(classes, return_counts=True)[1] if classes is not None else np.array([2])
    if counts.min() < 2:
        raise ValueError(
            f"y must hold every label twice at least, once for each half, got labels that occur "
            f"once ({int((counts < 2).sum())} of {len(counts)}); leave these samples out, or give "
            f"float targets."
        )
    needed = len(counts) if classes is not None else 1
    if min(test, samples - test) < needed:
        raise ValueError(
            f"test_fraction must leave {needed} samples or more for each half, got {fraction:g}, "
            f"which splits {samples} samples into {samples - test} and {test}; give more samples, "
            f"or a fraction nearer to 0.5."
        )


def _seed(value: Any) -> int:
    return checks.count("seed", value, least=0, most=2**32 - 1)


def _fraction(value: Any) -> float:
    checks.number("test_fraction", value)
    if not 0 < value < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {checks.shown(value)}.")
    return float(value)
