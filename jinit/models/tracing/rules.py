"""One rule for each primitive: a new one is a row here, and its steps if there are none yet.

Where no step says anything, and of what is not listed, parameters are used as "other" and signals
make a new one. Loops, branches and programs within a program are the interpreter's.
"""

from jinit.models.tracing import parameter_rules as of
from jinit.models.tracing import signal_rules as on
from jinit.models.tracing.calls import Rule

RULES: dict[str, Rule] = {
    # linear in a parameter
    "dot_general": Rule((of.product,), signals=(on.both_signals,)),
    "ragged_dot": Rule((of.ragged,)),
    "ragged_dot_general": Rule((of.ragged,)),
    "conv_general_dilated": Rule((of.convolution,)),
    "gather": Rule((of.lookup,), (of.taken,)),
    "add": Rule((of.shift,), signals=(on.added,), pointwise=True),
    "add_any": Rule((of.shift,), signals=(on.added,), pointwise=True),
    "sub": Rule((of.shift,), pointwise=True),
    "mul": Rule((of.factor,), signals=(on.multiplied,), pointwise=True),
    "div": Rule((of.factor,), signals=(on.multiplied,), pointwise=True),
    # another shape
    "reshape": Rule((), (of.moved, of.moved_together, of.batched), (on.moved,)),
    "broadcast_in_dim": Rule((), (of.moved, of.batched, of.moved_together), (on.moved,)),
    "transpose": Rule((), (of.moved, of.moved_together), (on.moved,)),
    "expand_dims": Rule((), (of.moved,), (on.moved,)),
    "rev": Rule((), (of.moved,), (on.moved,)),
    "tile": Rule((), (of.moved,)),
    "squeeze": Rule((), (of.squeezed,), (on.moved,)),
    "slice": Rule((), (of.cut,), (on.cut, on.moved)),
    "dynamic_slice": Rule((of.chosen,), (of.taken,)),
    "split": Rule((), (of.in_parts,), (on.cut,)),
    "concatenate": Rule((of.beside_signals,), (of.side_by_side,), (on.joined,)),
    "stack": Rule((of.beside_signals,), (of.stacked,), (on.joined,)),
    "unstack": Rule((), (of.unstacked,), (on.cut,)),
    # a parameter among signals
    **dict.fromkeys((
        "dynamic_update_slice", "pad", "scatter", "scatter-add"
    ), Rule((of.placed,))),
    "select_n": Rule((of.placed,), pointwise=True),
    # single entries
    "eq": Rule((of.pointwise,), signals=(on.compared,), pointwise=True),
    "sqrt": Rule((of.pointwise,), pointwise=True, root=True),
    "rsqrt": Rule((of.pointwise,), pointwise=True, root=True),
    "pow": Rule((of.pointwise,), pointwise=True, root=True),
    **dict.fromkeys((
        "abs", "and", "atan2", "cbrt", "clamp", "cos", "cosh", "erf", "erf_inv", "erfc",
        "exp", "exp2", "expm1", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
        "logistic", "lt", "max", "min", "ne", "neg", "not", "or", "sign", "sin", "sinh",
        "square", "tan", "tanh", "xor"
    ), Rule((of.pointwise,), pointwise=True)),
    # the same, perhaps in another precision
    **dict.fromkeys((
        "convert_element_type", "copy", "reduce_precision"
    ), Rule(pointwise=True, same=True)),
    **dict.fromkeys((
        "copy_p", "optimization_barrier", "sharding_constraint", "stop_gradient"
    ), Rule(same=True)),
    # over several entries
    "reduce_sum": Rule(signals=(on.summed,), summed=True),
    "cumsum": Rule(signals=(on.accumulated,), summed=True),
    **dict.fromkeys((
        "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
        "reduce_xor", "reduce_window_sum", "reduce_window_max", "reduce_window_min",
        "cumprod", "cummax", "cummin", "cumlogsumexp"
    ), Rule(summed=True)),
    # other numbers at every call
    **dict.fromkeys((
        "random_bits", "random_clone", "random_fold_in", "random_seed", "random_split",
        "random_unwrap", "random_wrap", "rng_bit_generator", "rng_uniform", "threefry2x32"
    ), Rule(random=True)),
}  # fmt: skip

WHOLE = {"softmax", "log_softmax", "glu"}
"""Functions of several entries, known by the name of a program in the trace.

jax's own softmax has none: it is written out, as an exponential and a division.
"""
