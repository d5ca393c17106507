"""What every description of a layered network says of itself, whatever its layers are."""

from typing import Any, ClassVar

import jax

from jinit import checks
from jinit.activations import Activation
from jinit.networks.layer import Parts, Run, Steps
from jinit.networks.norms import BatchStats


class Description:
    """A network of known layers: `init`, `forward`, training and signals ask no more of it."""

    activation: str | Activation
    norm: str | None
    bias: bool
    momentum: float
    eps: float
    chunk: ClassVar[int] = 1
    """layers of a long run that a CPU takes at a time"""

    def check_rest(self) -> None:
        """Validate what all of them have."""
        if not isinstance(self.bias, bool):
            raise TypeError(f"bias must be True or False, got {checks.shown(self.bias)}.")
        for name, value in (("momentum", self.momentum), ("eps", self.eps)):
            checks.number(name, value)
            if isinstance(value, jax.Array):
                raise TypeError(f"{name} must be a Python number, got {value!r}.")
            # NumPy scalars would widen low-precision arrays.
            object.__setattr__(self, name, float(value))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}.")
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, got {self.eps!r}.")

    @property
    def runs(self) -> tuple[Run, ...]:
        """Maximal groups of consecutive equal layers, the readout on its own."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """The number of layers with weights, readout included."""
        return sum(run.length for run in self.runs)

    @property
    def outputs(self) -> int:
        """How many numbers a sample gives."""
        return self.runs[-1].shape[-1]

    @property
    def parts(self) -> Parts:
        """What all its layers have in common."""
        raise NotImplementedError

    @property
    def words(self) -> str:
        """What it is, in a sentence about parameters of another network."""
        raise NotImplementedError

    def shapes(self, run: Run) -> dict[str, tuple[int, ...] | None]:
        """The shapes of a run's layers and of its statistics, None for what it lacks."""
        raise NotImplementedError

    def entries(self, samples: int) -> int:
        """Of how many numbers a batch statistic is at least made."""
        return samples

    def check_input(self, name: str, x: jax.Array) -> None:
        """Refuse inputs of another shape."""
        raise NotImplementedError

    def columns(self, x: jax.Array) -> jax.Array:
        """Inputs as a CPU's form has them, samples last."""
        raise NotImplementedError

    def steps(
        self, run: Run, train: bool, layer: Any, stats: BatchStats | None, *, rows: bool
    ) -> Steps[jax.Array]:
        """Those of a layer in the forward pass, on samples first or last."""
        raise NotImplementedError
