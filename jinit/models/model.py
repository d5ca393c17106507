"""Every tool on one model, which is traced once."""

from jinit.models.auditing.audit import audit
from jinit.models.diagnosis.measure import diagnose
from jinit.models.diagnosis.sharpness import sharpness
from jinit.models.drawing.fixup import fixup, skipinit
from jinit.models.drawing.gradinit import gradinit
from jinit.models.drawing.lsuv import lsuv
from jinit.models.drawing.metainit import gradient_quotient, metainit
from jinit.models.drawing.reinit import reinit
from jinit.models.scaling.mup import mup
from jinit.models.scaling.trees import (
    labels,
    layer_numbers,
    muon_dimension_numbers,
    weight_decay_mask,
)
from jinit.models.tracing.model import TracedModel, roles


class Model(TracedModel):
    """A model, traced once, and every tool on it. Frozen; it keeps nothing that it measures.

        m = jinit.Model(apply, variables, *inputs, loss=None, rules=None)

    Each tool does what the function of its name in `jinit` and `jinit.models` does, and is told
    what is not known yet: `m.diagnose()` of the variables that the model was made with, and
    `m.diagnose(trained)`, `m.reinit(key, trained, scheme="he")` of others of the same tree and
    shapes. Where only roles and fans are asked for, shapes without numbers will do.

    Args:
        apply: `apply(variables, *inputs)`, traceable.
        variables: any pytree of arrays or `jax.ShapeDtypeStruct`s.
        *inputs: pytrees of arrays or `jax.ShapeDtypeStruct`s.
        loss: `loss(output) -> scalar`; with `targets=` in the call of a tool,
            `loss(output, targets)`.
        rules: path -> role, for parameters of which the trace says nothing certain.

    Raises:
        TypeError: variables without a floating-point array; of a tool that needs numbers, where
            there is only a shape, or a loss, where there is none.
        ValueError: of a tool, variables of another tree or other shapes.

    >>> import jax, jinit
    >>> shapes = {"w": jax.ShapeDtypeStruct((64, 32), jax.numpy.float32)}
    >>> m = jinit.Model(lambda p, x: x @ p["w"], shapes, jax.numpy.ones((4, 64)))
    >>> m.roles()[0].fan_in, m.audit(m.reinit(jax.random.key(0), scheme="he")).rows[0].matches
    (64, ('he',))
    """

    roles = roles.traced
    audit = audit.traced
    diagnose = diagnose.traced
    reinit = reinit.traced
    lsuv = lsuv.traced
    fixup = fixup.traced
    skipinit = skipinit.traced
    metainit = metainit.traced
    gradinit = gradinit.traced
    gradient_quotient = gradient_quotient.traced
    sharpness = sharpness.traced
    labels = labels.traced
    weight_decay_mask = weight_decay_mask.traced
    muon_dimension_numbers = muon_dimension_numbers.traced
    layer_numbers = layer_numbers.traced
    mup = mup.traced
