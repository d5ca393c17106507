"""Data: plain arrays, split and standardised, the same every time."""

import jax
import numpy as np
import pytest

import jinit
from jinit.data import circles, digits, from_arrays, gaussian, images, mnist1d, moons, patches

MAKERS = {"digits": digits, "circles": circles, "moons": moons}


@pytest.mark.parametrize("name", MAKERS)
def test_split_and_standardised(name):
    data = MAKERS[name]()
    assert isinstance(data, jinit.Data)
    assert [a.dtype for a in data] == [np.float32, np.int32] * 2
    assert len(data.x_train) == len(data.y_train)
    assert len(data.x_test) == len(data.y_test)
    total = len(data.x_train) + len(data.x_test)
    assert len(data.x_test) == pytest.approx(0.2 * total, abs=1)
    x = data.x_train.astype(np.float64)
    spread = x.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(spread[spread > 0], 1, atol=1e-5)
    # Class frequencies are kept to one sample.
    classes = np.unique(data.y_train)
    np.testing.assert_array_equal(classes, np.arange(len(classes)))
    for c in classes:
        in_train, in_test = np.sum(data.y_train == c), np.sum(data.y_test == c)
        assert abs(in_test - 0.2 * (in_train + in_test)) <= 1


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_every_time_and_another_under_another_seed(name):
    one, again, other = MAKERS[name](), MAKERS[name](), MAKERS[name](seed=1)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.x_train, other.x_train)


def test_digits_are_the_digits():
    data = digits(standardize=False)
    x = np.concatenate([data.x_train, data.x_test])
    assert x.shape == (1797, 64)
    assert x.min() == 0
    assert x.max() == 16
    assert len(np.unique(data.y_train)) == 10
    # Standardised, pixels that never vary are zero and not NaN.
    assert np.isfinite(digits().x_train).all()
    assert np.any(np.all(digits().x_train == 0, axis=0))


def test_circles_and_moons_are_what_scikit_learn_draws():
    data = circles(200, noise=0.0, factor=0.5, standardize=False)
    radius = np.linalg.norm(data.x_train, axis=1)
    np.testing.assert_allclose(radius, np.where(data.y_train == 0, 1.0, 0.5), rtol=1e-5)
    data = moons(200, noise=0.0, standardize=False)
    outer = data.x_train[data.y_train == 0]
    np.testing.assert_allclose(np.linalg.norm(outer, axis=1), 1.0, rtol=1e-5)


def test_training_and_test_samples_are_different_samples():
    x = np.arange(100.0)[:, None]
    data = from_arrays(x, np.zeros(100, int), standardize=False, test_fraction=0.3)
    assert len(data.x_test) == 30
    seen = sorted([*data.x_train[:, 0], *data.x_test[:, 0]])
    np.testing.assert_array_equal(seen, x[:, 0])


def test_rows_keep_their_labels():
    x = np.arange(50.0)[:, None]
    data = from_arrays(x, x[:, 0] * 2, standardize=False)  # float targets: regression
    assert data.y_train.dtype == np.float32
    np.testing.assert_array_equal(data.y_train, 2 * data.x_train[:, 0])
    np.testing.assert_array_equal(data.y_test, 2 * data.x_test[:, 0])


def test_the_test_half_is_standardised_by_the_training_half():
    """Statistics of the test half would leak it."""
    x = np.random.default_rng(0).normal(5.0, 3.0, (40, 2))
    raw = from_arrays(x, np.zeros(40, int), standardize=False)
    data = from_arrays(x, np.zeros(40, int))
    mean, std = raw.x_train.mean(axis=0), raw.x_train.std(axis=0)
    np.testing.assert_allclose(data.x_test, (raw.x_test - mean) / std, rtol=1e-4, atol=1e-5)


def test_gaussian_inputs():
    data = gaussian(jax.random.key(0), 2000, 50, classes=4)
    x = np.concatenate([data.x_train, data.x_test])
    assert x.shape == (2000, 50)
    assert abs(x.mean()) < 5 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / x.size)
    assert len(data.x_test) == 400
    counts = np.bincount(data.y_train, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 0
    # The labels are a linear teacher's: least squares finds them far above chance.
    fit, *_ = np.linalg.lstsq(data.x_train, np.eye(4)[data.y_train])
    assert np.mean(np.argmax(data.x_test @ fit, axis=1) == data.y_test) > 0.7


def test_plain_arrays_go_straight_into_a_network():
    data = digits()
    net = jinit.MLP((64, 8, 10))
    params, state = jax.eval_shape(lambda k: jinit.init(k, net), jax.random.key(0))
    out = jax.eval_shape(
        lambda p, s: jinit.evaluate(net, p, s, data.x_test, data.y_test), params, state
    )
    assert out.loss.shape == ()


X, LABELS = np.arange(24.0).reshape(12, 2), np.arange(12) % 3


@pytest.mark.bad_input
@pytest.mark.parametrize(("make", "given", "words"), [
    (from_arrays, {"y": list("abcabcabcabc")}, "y must be an array of real numbers.*class names"),
    (from_arrays, {"x": [["a", "b"]] * 12}, "x must be an array of real numbers"),
    (from_arrays, {"x": X[:0], "y": LABELS[:0]}, r"x must have shape \[samples, features\], got"),
    (from_arrays, {"y": LABELS[:11]}, r"one row per sample, got 12 rows of x .* \[11\]"),
    (from_arrays, {"y": 3}, "one row per sample"),
    (from_arrays, {"y": LABELS - 1}, "labels in y must count from 0, got -1"),
    (from_arrays, {"y": LABELS + 2**40}, "labels in y must count from 0, got 1099511627778"),
    (from_arrays, {"y": np.arange(12)}, r"y must hold every label twice .* \(12 of 12\)"),
    (from_arrays, {"test_fraction": 0.1}, "test_fraction must leave 3 samples .* into 10 and 2;"),
    (from_arrays, {"test_fraction": 0.9}, "test_fraction must leave 3 samples .* into 1 and 11;"),
    (from_arrays, {"x": X[:1], "y": [0.5]}, "test_fraction must leave 1 .* into 0 and 1;"),
    (from_arrays, {"test_fraction": 1.0}, "test_fraction must lie between 0 and 1"),
    (from_arrays, {"x": X * 1e300}, "x must fit into float32"),
    (from_arrays, {"seed": -1}, "seed must be an integer of at least 0, got -1"),
    (from_arrays, {"standardize": "no"}, "standardize must be True or False"),
    (gaussian, {"test_fraction": 0.01}, "leave a sample for each half, got 0.01 of 20 samples"),
    (gaussian, {"test_fraction": 0.99}, "leave a sample for each half"),
    (circles, {"factor": 1.5}, "factor must be below 1"), (circles, {"noise": -1}, "noise must be"),
    (moons, {"noise": "loud"}, "noise must be one finite real"), (moons, {"seed": 2**32}, "seed"),
    (digits, {"test_fraction": 1e-4}, "test_fraction must leave 10 samples"),
])  # fmt: skip
def test_what_cannot_be_split_is_one_sentence(make, given, words):
    first = {from_arrays: {"x": X, "y": LABELS},
             gaussian: {"key": jax.random.key(0), "samples": 20, "features": 2}}  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=words):
        make(**first.get(make, {}) | given)


# --- images -----------------------------------------------------------------------------------


def test_digits_as_images_are_the_digits():
    flat, images = digits(), digits(images=True)
    assert images.x_train.shape == (1437, 8, 8, 1)
    np.testing.assert_array_equal(images.x_test.reshape(-1, 64), flat.x_test)
    np.testing.assert_array_equal(images.y_train, flat.y_train)


def test_mnist1d_is_made_by_its_recipe():
    """Mean 0, variance 1, the same again; a linear classifier finds what the paper says, 32 %."""
    from sklearn.linear_model import LogisticRegression

    made = mnist1d(2000)
    assert made.x_train.shape == (1600, 40)
    every = np.concatenate([made.x_train, made.x_test])
    assert abs(every.mean()) < 1e-6
    assert every.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(made.x_train, mnist1d(2000).x_train)
    assert mnist1d(40, images=True, test_fraction=0.5).x_train.shape == (20, 1, 40, 1)
    linear = LogisticRegression(C=0.1, max_iter=200).fit(made.x_train, made.y_train)
    # 400 test samples: four standard deviations of a share of 0.32 are 0.09.
    assert linear.score(made.x_test, made.y_test) == pytest.approx(0.32, abs=0.09)


def test_patches_are_white():
    found = patches(300, side=3).reshape(300, -1)
    np.testing.assert_allclose(found.T @ found / 300, np.eye(27), atol=1e-5)
    few = patches(20, side=4)  # fewer than entries
    assert few.shape == (20, 4, 4, 3)
    assert np.isfinite(few).all()
    plain = patches(300, side=3, whiten=False).reshape(300, -1)
    np.testing.assert_allclose(plain.std(0), np.ones(27), rtol=1e-4)


@pytest.fixture
def folder(tmp_path):
    """Two classes of five images of 4 x 3 pixels."""
    from matplotlib.image import imsave

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 4, 3, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        own = tmp_path / ("cat" if i < 5 else "dog")
        own.mkdir(exist_ok=True)
        imsave(own / f"{i}.png", image)
    (tmp_path / "cat" / "notes.txt").write_text("of no interest")
    return tmp_path, pixels


def test_a_folder_of_ones_own_images(folder):
    path, pixels = folder
    found = images(path, standardize=False, test_fraction=0.4)
    assert found.x_train.shape == (6, 4, 3, 3)
    both = np.concatenate([found.x_train, found.x_test])
    labels = np.concatenate([found.y_train, found.y_test])
    for image, label in zip(both, labels, strict=True):
        places = [i for i, own in enumerate(pixels) if np.array_equal(own, image)]
        assert [i // 5 for i in places] == [label]
    standard = images(path, test_fraction=0.4).x_train
    np.testing.assert_allclose(standard.mean((0, 1, 2)), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(standard.std((0, 1, 2)), np.ones(3), rtol=1e-5)


def test_a_folder_or_file_that_is_split_already(folder, tmp_path):
    path, _ = folder
    for half in ("train", "test"):
        (path / half).mkdir()
    for name in ("cat", "dog"):
        (path / name).rename(path / "train" / name)
    (path / "test" / "dog").mkdir()
    (path / "train" / "dog" / "9.png").rename(path / "test" / "dog" / "9.png")
    found = images(path)
    assert (len(found.x_train), len(found.x_test), found.y_test.tolist()) == (9, 1, [1])
    file = tmp_path / "own.npz"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (6, 5, 5)).astype(np.uint8), np.arange(6) % 2
    np.savez(file, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2, None])
    found = images(file, standardize=False)
    np.testing.assert_array_equal(found.x_train[..., 0], x)
    assert found.x_test.shape == (2, 5, 5, 1)
    assert found.y_test.dtype == np.int32


@pytest.mark.bad_input
def test_what_is_no_folder_of_images(folder, tmp_path):
    path, _ = folder
    with pytest.raises(ValueError, match=r"a folder of images or an npz file, got .*nothing"):
        images(tmp_path / "nothing")
    (path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match="must hold a folder of images for each class, got none"):
        images(path / "empty")
    from matplotlib.image import imsave

    imsave(path / "cat" / "odd.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"one size, got \[4, 3, 3\] in 0.png and \[2, 2, 3\] in"):
        images(path)
    for arrays, sentence in (
        ({"a": np.zeros(3)}, "must hold x_train, y_train, x_test and y_test, or x and y, got a"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(4, int)}, r"got shapes \[4, 3\] and \[4\]"),
        ({"x": np.zeros((4, 3, 3)), "y": np.zeros(4)}, r"integer label .* of float64"),
    ):
        file = tmp_path / "file.npz"
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=sentence):
            images(file)
