"""PyTorch: a loop over modules, torch.func, and everything batched by hand with torch.bmm."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import Built
from benchmarks.workloads import Workload

__all__ = ["ENTRIES"]


def _module(work: Workload) -> nn.Sequential:
    layers: list[nn.Module] = []
    if work.image:
        for m, n in zip(work.dims[:-1], work.dims[1:-1], strict=False):
            layers += [nn.Conv2d(m, n, 3, padding="same"), nn.ReLU()]
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(work.width, work.dims[-1])
        )
    for i, (m, n) in enumerate(zip(work.dims, work.dims[1:], strict=False)):
        layers.append(nn.Linear(m, n, bias=work.bias))
        if i < len(work.dims) - 2:
            if work.batch_norm:
                layers.append(nn.BatchNorm1d(n))
            layers.append(nn.Tanh() if work.activation == "tanh" else nn.ReLU())
    return nn.Sequential(*layers).to(getattr(torch, work.dtype))


def _data(work: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = map(torch.from_numpy, work.data)
    x = x.permute(0, 3, 1, 2).contiguous() if work.image else x
    return x, y if work.kind == "grid" else y.long()


def _loss(work: Workload, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if work.kind == "grid":
        return 0.5 * nn.functional.mse_loss(out, y)
    return nn.functional.cross_entropy(out, y)


def loop(work: Workload, networks: int) -> Built:
    x, y = _data(work)
    model = _module(work)
    linears = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]

    def start(i: int) -> None:
        with torch.no_grad():
            for layer, w in zip(linears, work.weights, strict=True):
                own = torch.from_numpy(w[i % len(w)])
                layer.weight.copy_(own.permute(3, 2, 0, 1) if own.ndim == 4 else own.T)
                if layer.bias is not None:
                    layer.bias.zero_()
            for layer in model:
                if isinstance(layer, nn.BatchNorm1d):
                    layer.reset_parameters()

    def train(i: int) -> float:
        start(i)
        rates = np.broadcast_to(work.numbers[i], len(linears))
        if work.kind == "grid":
            groups = [
                {"params": layer.parameters(), "lr": float(rate)}
                for layer, rate in zip(linears, rates, strict=True)
            ]
            optimizer = torch.optim.SGD(groups)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=float(rates[0]))
        for _ in range(work.steps):
            optimizer.zero_grad()
            value = _loss(work, model(x), y)
            value.backward()
            optimizer.step()
        return value.item()

    def gradients(i: int) -> list[float]:
        start(i)
        with torch.no_grad():
            for layer in linears:
                layer.weight.mul_(float(work.numbers[i // work.bases]))
        model.zero_grad()
        _loss(work, model(x), y).backward()
        squares = torch.stack([layer.weight.grad.square().mean() for layer in linears])  # type: ignore[union-attr]
        return (0.5 * torch.log10(squares)).tolist()

    one = gradients if work.kind == "gradients" else train
    return Built(lambda: np.asarray([one(i) for i in range(networks)]), 0.0)


def _starts(work: Workload, networks: int) -> list[torch.Tensor]:
    return [torch.from_numpy(w[:networks]) for w in work.weights]


def _rates(work: Workload, networks: int, layers: int) -> list[torch.Tensor]:
    """Per layer, `[networks]`."""
    rates = torch.from_numpy(work.numbers[:networks])
    return [rates[:, j] if work.kind == "grid" else rates for j in range(layers)]


def func(work: Workload, networks: int) -> Built:
    """torch.func: vmap of grad over stacked parameters."""
    x, y = _data(work)

    def apply(parameters: list[Any], x: torch.Tensor) -> torch.Tensor:
        h = x
        for i, layer in enumerate(parameters):
            h = h @ layer["w"] + layer["b"] if work.bias else h @ layer["w"]
            if i < len(parameters) - 1:
                if work.batch_norm:
                    # Batch norm keeps running statistics in place, which vmap of grad forbids;
                    # without them this does less than the others.
                    var, mean = torch.var_mean(h, 0, correction=0)
                    h = (h - mean) * torch.rsqrt(var + 1e-5)
                    h = layer["gamma"] * h + layer["beta"]
                h = torch.tanh(h) if work.activation == "tanh" else torch.relu(h)
        return h

    def objective(parameters: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        value = _loss(work, apply(parameters, x), y)
        return value, value

    step = torch.func.vmap(torch.func.grad(objective, has_aux=True))

    def parameters(count: int, weights: list[torch.Tensor]) -> list[Any]:
        found = []
        for i, w in enumerate(weights):
            n, dtype = w.shape[-1], w.dtype
            layer = {"w": w}
            if work.bias:
                layer["b"] = torch.zeros(count, n, dtype=dtype)
            if work.batch_norm and i < len(weights) - 1:
                layer["gamma"] = torch.ones(count, n, dtype=dtype)
                layer["beta"] = torch.zeros(count, n, dtype=dtype)
            found.append(layer)
        return found

    def train() -> np.ndarray:
        now = parameters(
            networks, [w.expand(networks, -1, -1).clone() for w in _starts(work, networks)]
        )
        rates = _rates(work, networks, len(now))
        for _ in range(work.steps):
            gradient, value = step(now)
            now = [
                {
                    name: p - rate.reshape(-1, *(1,) * (p.ndim - 1)) * of_layer[name]
                    for name, p in layer.items()
                }
                for layer, of_layer, rate in zip(now, gradient, rates, strict=True)
            ]
        return value.numpy()

    def gradients() -> np.ndarray:
        found = []
        for j in range(networks // work.bases):
            scaled = [w * float(work.numbers[j]) for w in _starts(work, work.bases)]
            gradient, _ = step(parameters(work.bases, scaled))
            squares = torch.stack([g["w"].square().mean((1, 2)) for g in gradient], dim=1)
            found.append((0.5 * torch.log10(squares)).numpy())
        return np.concatenate(found)

    return Built(gradients if work.kind == "gradients" else train, 0.0)


def bmm(work: Workload, networks: int, device: str = "cpu") -> Built:
    """All networks in one batched product per layer, written by hand; on a GPU as a CUDA graph."""
    x, y = (array.to(device) for array in _data(work))
    starts = [w.to(device) for w in _starts(work, networks)]

    def forward(weights: list[torch.Tensor], biases: Any, norms: Any, count: int) -> torch.Tensor:
        h = x.expand(count, *x.shape)
        for i, w in enumerate(weights):
            h = torch.bmm(h, w) if biases[i] is None else torch.baddbmm(biases[i], h, w)
            if i < len(weights) - 1:
                if work.batch_norm:
                    gamma, beta, running_mean, running_var = norms[i]
                    var, mean = torch.var_mean(h, 1, correction=0, keepdim=True)
                    with torch.no_grad():
                        running_mean.lerp_(mean, 0.1)
                        running_var.lerp_(var * (work.batch / (work.batch - 1)), 0.1)
                    h = gamma * (h - mean) * torch.rsqrt(var + 1e-5) + beta
                h = torch.tanh(h) if work.activation == "tanh" else torch.relu(h)
        return h

    def losses(out: torch.Tensor, count: int) -> torch.Tensor:
        if work.kind == "grid":
            return 0.5 * (out - y).square().mean((1, 2))
        flat = nn.functional.cross_entropy(
            out.reshape(-1, out.shape[-1]), y.repeat(count), reduction="none"
        )
        return flat.reshape(count, -1).mean(1)

    def fresh(count: int, weights: list[torch.Tensor]) -> Any:
        weights = [w.expand(count, -1, -1).clone().requires_grad_() for w in weights]
        shapes = [(count, 1, w.shape[-1]) for w in weights]
        how: Any = {"dtype": weights[0].dtype, "device": device}
        biases = [torch.zeros(s, requires_grad=True, **how) if work.bias else None for s in shapes]
        norms = [
            (
                torch.ones(s, requires_grad=True, **how), torch.zeros(s, requires_grad=True, **how),
                torch.zeros(s, **how), torch.ones(s, **how),
            )
            for s in shapes[:-1]
        ] if work.batch_norm else []  # fmt: skip
        return weights, biases, norms

    def training() -> tuple[Any, list[torch.Tensor]]:
        """A function that makes one step and returns the losses before it; what it changes."""
        weights, biases, norms = fresh(networks, starts)
        rates = [rate.to(device) for rate in _rates(work, networks, len(weights))]
        learned = [
            (p, rates[i].reshape(-1, 1, 1))
            for i in range(len(weights))
            for p in (weights[i], biases[i], *(norms[i][:2] if i < len(norms) else ()))
            if p is not None
        ]

        def step() -> torch.Tensor:
            value = losses(forward(weights, biases, norms, networks), networks)
            found = torch.autograd.grad(value.sum(), [p for p, _ in learned])
            with torch.no_grad():
                for (p, rate), g in zip(learned, found, strict=True):
                    p -= rate * g
            return value.detach()

        return step, [p for p, _ in learned] + [p for norm in norms for p in norm[2:]]

    def train() -> np.ndarray:
        step, _ = training()
        for _ in range(work.steps):
            value = step()
        return value.numpy()

    def gradients() -> np.ndarray:
        results = []
        for j in range(networks // work.bases):
            scaled = [w[: work.bases] * float(work.numbers[j]) for w in starts]
            weights, biases, _ = fresh(work.bases, scaled)
            value = losses(forward(weights, biases, [], work.bases), work.bases)
            found = torch.autograd.grad(value.sum(), weights)
            squares = torch.stack([g.square().mean((1, 2)) for g in found], dim=1)
            results.append((0.5 * torch.log10(squares)).cpu().numpy())
        return np.concatenate(results)

    if work.kind == "gradients":
        return Built(gradients, 0.0)
    return Built(train, 0.0) if device == "cpu" else _graph(work.steps, *training())


def _graph(steps: int, step: Any, changed: list[torch.Tensor]) -> Built:
    """The step captured once, and replayed from the same start in every run."""
    start = [p.detach().clone() for p in changed]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()

    def run() -> np.ndarray:
        with torch.no_grad():
            for p, first in zip(changed, start, strict=True):
                p.copy_(first)
        for _ in range(steps):
            graph.replay()
        return value.cpu().numpy()

    return Built(run, 0.0)


ENTRIES = {"PyTorch loop": loop, "torch.func": func, "torch.bmm": bmm}
