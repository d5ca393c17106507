"""Losses and accuracy against their formulas, and the loss that fits the labels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.networks.losses import LOSSES, accuracy, as_targets, loss_function

OUTPUTS = jnp.asarray([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = jnp.asarray([0, 2])


def test_cross_entropy_is_minus_the_mean_log_softmax():
    softmax = np.exp(OUTPUTS) / np.exp(OUTPUTS).sum(1, keepdims=True)
    expected = -np.log(softmax[[0, 1], LABELS]).mean()
    assert LOSSES["cross_entropy"](OUTPUTS, LABELS) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_is_of_the_sigmoid():
    z, y = np.array([[1.5], [-0.5], [30.0]], np.float32), np.array([1, 1, 0], np.int32)
    signed = np.where(y == 1, -1, 1) * z[:, 0].astype(float)
    expected = np.mean(np.logaddexp(0, signed))  # -log sigmoid(±z)
    assert LOSSES["binary_cross_entropy"](jnp.asarray(z), jnp.asarray(y)) == pytest.approx(
        expected, rel=1e-6
    )


def test_squared_error_is_half_the_squared_distance_averaged_over_the_batch():
    targets = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], np.float32)
    expected = 0.5 * ((OUTPUTS - targets) ** 2).sum(1).mean()
    assert LOSSES["squared_error"](OUTPUTS, jnp.asarray(targets)) == pytest.approx(expected)
    one_hot = np.eye(3)[LABELS]
    expected = 0.5 * ((OUTPUTS - one_hot) ** 2).sum(1).mean()
    assert LOSSES["squared_error"](OUTPUTS, jnp.asarray(LABELS)) == pytest.approx(expected)


def test_equal_outputs_cost_the_entropy_of_the_classes():
    """The floor of chapter 1: ln 10 for ten classes, ln 2 for two."""
    zeros = jnp.zeros((4, 10))
    assert LOSSES["cross_entropy"](zeros, jnp.arange(4)) == pytest.approx(math.log(10))
    assert LOSSES["binary_cross_entropy"](zeros[:, :1], jnp.asarray([0, 1, 1, 0])) == (
        pytest.approx(math.log(2))
    )


@pytest.mark.parametrize(
    ("outputs", "y", "expected"),
    [
        (3, np.array([0, 1]), "cross_entropy"),
        (1, np.array([0, 1]), "binary_cross_entropy"),
        (1, np.array([0.5, 1.0], np.float32), "squared_error"),
        (3, np.zeros((2, 3), np.float32), "squared_error"),
    ],
)
def test_none_chooses_by_the_labels(outputs, y, expected):
    assert loss_function(None, jnp.asarray(y), (2, outputs)) is LOSSES[expected]
    assert loss_function(expected, jnp.asarray(y), (2, outputs)) is LOSSES[expected]


def test_a_loss_of_your_own_is_used_as_it_is():
    def own(outputs, y):
        return jnp.sum(outputs)

    assert loss_function(own, jnp.asarray(LABELS), (2, 3)) is own


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_with_finite_gradients_at_large_outputs(name):
    width = 1 if name == "binary_cross_entropy" else 3
    outputs, y = jnp.asarray([[1e4] * width, [-1e4] * width]), jnp.asarray([0, 1])
    value, gradient = jax.value_and_grad(LOSSES[name])(outputs, y)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_accuracy_counts_the_largest_output():
    assert accuracy(jnp.asarray(OUTPUTS), jnp.asarray(LABELS)) == 0.5
    assert accuracy(jnp.asarray(OUTPUTS), jnp.asarray([0, 1])) == 1.0


def test_accuracy_of_one_output_is_a_sigmoid_above_one_half():
    z = jnp.asarray([[0.1], [-0.1], [0.0]])
    assert accuracy(z, jnp.asarray([1, 0, 0])) == 1.0
    assert accuracy(z, jnp.asarray([0, 1, 1])) == 0.0


def test_accuracy_of_regression_is_nan():
    assert jnp.isnan(accuracy(jnp.asarray(OUTPUTS), jnp.zeros((2, 3))))


def test_targets_are_int32_labels_or_floats_of_the_outputs_shape():
    assert as_targets(np.array([0, 1, 2]), (3, 3)).dtype == jnp.int32
    assert as_targets(np.array([True, False]), (2, 1)).dtype == jnp.int32
    assert as_targets(np.zeros(4, np.float32), (4, 1)).shape == (4, 1)
    # Labels of one output are 0 and 1.
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        as_targets(np.array([0, 2]), (2, 1))
