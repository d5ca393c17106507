"""A loop over networks in NumPy, with the backward pass by hand."""

from typing import Any

import numpy as np

from benchmarks.peers import Built
from benchmarks.workloads import Workload

__all__ = ["ENTRIES"]


def loop(work: Workload, networks: int) -> Built:
    x, y = work.data
    dtype = work.dtype

    def start(i: int) -> list[np.ndarray]:
        return [w[i % len(w)].copy() for w in work.weights]

    def forward(weights: Any, biases: Any, norms: Any) -> Any:
        h, kept = x, []
        last = len(weights) - 1
        for i, w in enumerate(weights):
            z = h @ w + biases[i] if work.bias else h @ w
            standard = inverse = None
            if i < last and work.batch_norm:
                mean, var = z.mean(0), z.var(0)
                inverse = 1 / np.sqrt(var + 1e-5)
                standard = (z - mean) * inverse
                gamma, beta, running_mean, running_var = norms[i]
                running_mean *= 0.9
                running_mean += 0.1 * mean
                running_var *= 0.9
                running_var += 0.1 * var * (work.batch / (work.batch - 1))
                z = gamma * standard + beta
            a = z if i == last else np.tanh(z) if work.activation == "tanh" else np.maximum(z, 0)
            kept.append((h, a, standard, inverse))
            h = a
        return h, kept

    def objective(out: np.ndarray) -> tuple[float, np.ndarray]:
        if work.kind == "grid":
            difference = out - y
            return 0.5 * float(np.mean(difference**2)), difference / work.batch
        shifted = out - out.max(1, keepdims=True)
        exponentials = np.exp(shifted)
        p = exponentials / exponentials.sum(1, keepdims=True)
        rows = np.arange(len(y))
        value = -float(np.mean(np.log(p[rows, y])))
        p[rows, y] -= 1
        return value, (p / len(y)).astype(dtype)

    def backward(weights: Any, kept: Any, g: np.ndarray, norms: Any) -> Any:
        found = []
        last = len(weights) - 1
        for i in reversed(range(len(weights))):
            h, a, standard, inverse = kept[i]
            dgamma = dbeta = None
            if i < last:
                g = g * (1 - a * a) if work.activation == "tanh" else g * (a > 0)
                if work.batch_norm:
                    dgamma, dbeta = (g * standard).sum(0), g.sum(0)
                    b = work.batch
                    g = (norms[i][0] * inverse / b) * (b * g - dbeta - standard * dgamma)
            found.append((h.T @ g, g.sum(0), dgamma, dbeta))
            if i:
                g = g @ weights[i].T
        return found[::-1]

    def train(i: int) -> float:
        weights = start(i)
        biases = [np.zeros(w.shape[1], dtype) for w in weights]
        norms = [
            (np.ones(n, dtype), np.zeros(n, dtype), np.zeros(n, dtype), np.ones(n, dtype))
            for n in work.dims[1:-1]
        ]
        rates = np.broadcast_to(work.numbers[i], len(weights))
        value = 0.0
        for _ in range(work.steps):
            out, kept = forward(weights, biases, norms)
            value, g = objective(out)
            gradients = backward(weights, kept, g, norms)
            for j, (dw, db, dgamma, dbeta) in enumerate(gradients):
                weights[j] -= rates[j] * dw
                if work.bias:
                    biases[j] -= rates[j] * db
                if dgamma is not None:
                    norms[j][0][:] -= rates[j] * dgamma
                    norms[j][1][:] -= rates[j] * dbeta
        return value

    def gradients(i: int) -> list[float]:
        weights = [w * work.numbers[i // work.bases] for w in start(i)]
        biases = [np.zeros(w.shape[1], dtype) for w in weights]
        out, kept = forward(weights, biases, None)
        found = backward(weights, kept, objective(out)[1], None)
        return [float(np.log10(np.sqrt(np.mean(dw**2)))) for dw, *_ in found]

    one = gradients if work.kind == "gradients" else train
    return Built(lambda: np.asarray([one(i) for i in range(networks)]), 0.0)


ENTRIES = {"NumPy loop": loop}
