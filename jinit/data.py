"""Data to train on, as plain arrays: real digits, toy sets, noise, and your own.

Everything here is embedded in scikit-learn, drawn or yours; nothing is downloaded.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jinit import checks

__all__ = [
    "Data", "circles", "digits", "from_arrays", "gaussian", "images", "mnist1d", "moons", "patches",
]  # fmt: skip


class Data(NamedTuple):
    """A data set as plain arrays.

    `x_train` [train, features], `y_train` [train], `x_test` [test, features], `y_test` [test].
    Of images x is [samples, height, width, channels], as `jinit.ConvNet` takes it.
    Labels are integers from 0, or floats [samples, outputs] for regression.
    """

    x_train: Float[jax.Array | np.ndarray, "train *features"]
    y_train: Num[jax.Array | np.ndarray, "train ..."]
    x_test: Float[jax.Array | np.ndarray, "test *features"]
    y_test: Num[jax.Array | np.ndarray, "test ..."]


def digits(
    *, test_fraction: float = 0.2, standardize: bool = True, seed: int = 0, images: bool = False
) -> Data:
    """1797 handwritten digits of 8 x 8 pixels, ten classes.

    Args:
        test_fraction: the share held out, with equal class frequencies.
        standardize: every pixel to mean 0 and variance 1 over the training half (pixels that never
            vary become 0); False keeps the grey values 0 to 16.
        seed: of the split.
        images: x as [samples, 8, 8, 1] for a `jinit.ConvNet`, otherwise [samples, 64].

    Source: Alpaydin & Kaynak 1998, the test half of UCI's optical digits, as embedded in
    scikit-learn.
    """
    from sklearn.datasets import load_digits

    images = checks.flag("images", images)
    x, y = load_digits(return_X_y=True)
    found = from_arrays(x, y, test_fraction=test_fraction, standardize=standardize, seed=seed)
    return _shaped(found, (8, 8, 1)) if images else found


def _shaped(data: Data, shape: tuple[int, ...]) -> Data:
    """The same with samples of that shape."""
    x_train, x_test = (np.asarray(x).reshape(-1, *shape) for x in (data.x_train, data.x_test))
    return data._replace(x_train=x_train, x_test=x_test)


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


# The ten digits as twelve heights each (Greydanus & Kobak 2024, appendix).
_STROKES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


def mnist1d(
    samples: int = 5000, *, test_fraction: float = 0.2, images: bool = False, seed: int = 0
) -> Data:
    """Ten digits drawn as a line of 40 heights: padded, stretched, scaled, moved, noisy, sheared.

    Made by the published recipe and its constants from a generator of our own, so that the samples
    are none of the published file, but of its distribution: 12 heights, 36 to 60 zeros behind them,
    drawn out to 72; a factor 1 +- 0.2; moved around by up to 47; where nothing is, noise of 0.25
    smoothed over 2; noise of 0.02 everywhere; a slope of +- 0.375; every 1.8th of 72 heights, 40.
    All together have mean 0 and variance 1. Published accuracies: 32 (logistic), 68 (MLP), 94 (CNN)
    and 96 % (people).

    Args:
        samples: the number of samples, a tenth of each class.
        test_fraction: the share held out.
        images: x as [samples, 1, 40, 1] for a `jinit.ConvNet`, otherwise [samples, 40].
        seed: of the samples.

    Source: Greydanus & Kobak 2024, "Scaling down deep learning with MNIST-1D".
    """
    from scipy.ndimage import gaussian_filter1d

    samples, seed = checks.count("samples", samples, least=20), _seed(seed)
    images, fraction = checks.flag("images", images), _fraction(test_fraction)
    rng = np.random.default_rng(seed)
    strokes = np.asarray(_STROKES, float)
    strokes = (strokes - strokes.mean(1, keepdims=True)) / strokes.std(1, keepdims=True)
    strokes = (strokes - strokes[:, :1]) / 6
    y = np.arange(samples) % len(strokes)
    length, found = 72, np.empty((samples, 40))
    whole, few = np.linspace(0, 1, length), np.linspace(0, 1, 40)
    for i, label in enumerate(y):
        padded = np.concatenate([strokes[label] + 1e-8, np.zeros(rng.integers(36, 61))])
        line = np.interp(whole, np.linspace(0, 1, len(padded)), padded)
        line = np.roll(line * rng.uniform(0.8, 1.2), rng.integers(48))
        noise = gaussian_filter1d(0.25 * rng.standard_normal(length), 2)
        line = np.where(line != 0, line, noise) + 0.02 * rng.standard_normal(length)
        line -= 0.75 * rng.uniform(-0.5, 0.5) * np.linspace(-0.5, 0.5, length)
        found[i] = np.interp(few, whole, line)
    found = (found - found.mean()) / found.std()
    data = from_arrays(found, y, test_fraction=fraction, standardize=False, seed=seed)
    return _shaped(data, (1, 40, 1)) if images else data


_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm")


def images(
    path: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    standardize: bool = True,
    seed: int = 0,
) -> Data:
    """Images of one's own, as [samples, height, width, channels].

    Args:
        path: a folder with a folder of images for each class (in alphabetical order), which may
            stand under `train` and `test`; or an npz file with `x_train`, `y_train`, `x_test`,
            `y_test` (Keras' MNIST and CIFAR), or with `x` and `y`. Channels may be missing.
        test_fraction: the share held out, where the data are not split already.
        standardize: every channel to mean 0 and variance 1 over the training half; False keeps
            grey values from 0 to 255.
        seed: of the split.

    Raises:
        ValueError: nothing there, no images, images of several sizes, arrays that are no images.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or an npz file, got {checks.shown(path)}.")
    where, standardize = Path(path), checks.flag("standardize", standardize)
    if where.is_dir():
        halves = _folders(where)
    elif where.suffix == ".npz" and where.is_file():
        halves = _arrays_in(where)
    else:
        raise ValueError(
            f"path must be a folder of images or an npz file, got {str(path)!r}, which is neither."
        )
    for x, y in halves:
        if x.ndim != 4 or y.shape != (len(x),) or not x.size or y.dtype.kind not in "iu":
            raise ValueError(
                f"{str(path)!r} must hold images [samples, height, width] or [samples, height, "
                f"width, channels] and an integer label for each, got shapes {list(x.shape)} and "
                f"{list(y.shape)} of {y.dtype}."
            )
    shape = halves[0][0].shape[1:]
    if len({x.shape[1:] for x, _ in halves}) > 1:
        raise ValueError(
            f"{str(path)!r} must hold images of one shape, got {list(shape)} for training and "
            f"{list(halves[1][0].shape[1:])} for the test."
        )
    if len(halves) == 1:
        (x, y), fraction = halves[0], _fraction(test_fraction)
        flat = x.reshape(len(x), -1)
        data = from_arrays(flat, y, test_fraction=fraction, standardize=False, seed=seed)
        data = _shaped(data, shape)
    else:
        (x, y), (x_test, y_test) = halves
        data = Data(
            x.astype(np.float32), y.astype(np.int32),
            x_test.astype(np.float32), y_test.astype(np.int32),
        )  # fmt: skip
    if not standardize:
        return data
    own = np.asarray(data.x_train, np.float64)
    mean, std = own.mean((0, 1, 2)), own.std((0, 1, 2))
    std = np.where(std > 0, std, 1)
    x, x_test = (((np.asarray(a) - mean) / std).astype(np.float32)
                 for a in (data.x_train, data.x_test))  # fmt: skip
    return data._replace(x_train=x, x_test=x_test)


def _arrays_in(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        pairs = [("x_train", "y_train"), ("x_test", "y_test")]
        if not names.issuperset(sum(pairs, ())):
            pairs = [("x", "y")]
        if not names.issuperset(pairs[0]):
            raise ValueError(
                f"{str(path)!r} must hold x_train, y_train, x_test and y_test, or x and y, got "
                f"{', '.join(sorted(names)) or 'nothing'}."
            )
        found = [(_numbers(x, file[x]), _numbers(y, file[y])) for x, y in pairs]
    return [(x[..., None] if x.ndim == 3 else x, y.reshape(len(y)) if y.size == len(y) else y)
            for x, y in found]  # fmt: skip


def _folders(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    split = [path / half for half in ("train", "test")]
    halves = split if all(half.is_dir() for half in split) else [path]
    classes = sorted({own.name for half in halves for own in half.iterdir() if own.is_dir()})
    return [_folder(half, classes) for half in halves]


def _folder(path: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    from matplotlib.image import imread  # which reads what Pillow does

    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).glob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise ValueError(
            f"{str(path)!r} must hold a folder of images for each class, got none; images end in "
            f"{', '.join(_SUFFIXES)}."
        )
    found, size = [], None
    for file, _ in files:
        image = np.asarray(imread(file))
        image = image[..., None] if image.ndim == 2 else image[..., :3]
        # Of png files, matplotlib gives floats up to 1.
        image = np.round(image * 255) if image.dtype.kind == "f" else image
        size = image.shape if size is None else size
        if image.shape != size:
            raise ValueError(
                f"images must be of one size, got {list(size)} in {files[0][0].name} and "
                f"{list(image.shape)} in {file.name}; resize them."
            )
        found.append(image.astype(np.float32))
    return np.stack(found), np.asarray([label for _, label in files])


def patches(
    samples: int = 2000, *, side: int = 8, whiten: bool = True, seed: int = 0
) -> Float[np.ndarray, "samples side side 3"]:
    """Patches of the two natural images that come with scikit-learn, as inputs without labels.

    Args:
        samples: the number of patches.
        side: of a patch, in pixels.
        whiten: turned to uncorrelated entries of variance 1 and back (ZCA), the entries of one
            patch by those of all; False only takes mean and standard deviation of each entry away.
        seed: of the places.

    Source: `sklearn.datasets.load_sample_images`.
    """
    from sklearn.datasets import load_sample_images

    side, seed = checks.count("side", side, most=400), _seed(seed)
    samples = checks.count("samples", samples, least=2)
    whiten = checks.flag("whiten", whiten)
    rng = np.random.default_rng(seed)
    pictures = load_sample_images().images
    found = np.empty((samples, side, side, 3))
    for i in range(samples):
        picture = pictures[i % len(pictures)]
        y, x = (rng.integers(n - side + 1) for n in picture.shape[:2])
        found[i] = picture[y : y + side, x : x + side]
    flat = found.reshape(samples, -1)
    flat -= flat.mean(0)
    if not whiten:
        return (flat / flat.std(0)).reshape(found.shape).astype(np.float32)
    values, vectors = np.linalg.eigh(flat.T @ flat / samples)
    kept = values > 1e-9 * values[-1]  # fewer patches than entries leave directions without any
    turned = (flat @ vectors[:, kept]) / np.sqrt(values[kept])
    return (turned @ vectors[:, kept].T).reshape(found.shape).astype(np.float32)


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
