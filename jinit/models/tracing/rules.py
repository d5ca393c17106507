"""One rule for each primitive: a new one is a row here, and its steps if there are none yet.

Where no step says anything, and of what is not listed, parameters are used as "other" and signals
make a new one. Loops, branches and programs within a program are the interpreter's.
"""

from jinit.models.tracing import parameter_rules as of
from jinit.models.tracing import signal_rules as on
from jinit.models.tracing.calls import Rule

RULES: dict[str, Rule] = {
    # linear in a parameter
    "dot_general": Rule((of.product, of.product_alone), (on.read_one_by_one,)),
    "conv_general_dilated": Rule((of.convolution,)),
    "gather": Rule((of.lookup,)),
    "add": Rule((of.changed_alone, of.shift), (on.added,), pointwise=True),
    "add_any": Rule((of.shift,), (on.added,), pointwise=True),
    "sub": Rule((of.changed_alone, of.shift), pointwise=True),
    "mul": Rule((of.factor_alone, of.factor), (on.late_norm,), pointwise=True),
    "div": Rule((of.factor_alone, of.factor), (on.late_norm,), pointwise=True),
    # another shape
    "reshape": Rule((of.moved, of.batched), (on.moved,)),
    "broadcast_in_dim": Rule((of.moved, of.batched), (on.moved,)),
    "transpose": Rule((of.moved,), (on.moved,)),
    "expand_dims": Rule((of.moved,), (on.moved,)),
    "rev": Rule((of.moved,), (on.moved,)),
    "squeeze": Rule((of.squeezed,), (on.moved,)),
    "slice": Rule((of.cut,), (on.moved,)),
    "dynamic_slice": Rule((of.chosen,), (on.moved,)),
    "split": Rule((of.in_parts,)),
    "concatenate": Rule((of.side_by_side,)),
    # single entries
    "max": Rule((of.changed_alone,), pointwise=True),
    "neg": Rule((of.changed_alone,), pointwise=True),
    "sqrt": Rule((of.changed_alone,), pointwise=True, root=True),
    "rsqrt": Rule((of.changed_alone,), pointwise=True, root=True),
    "pow": Rule(pointwise=True, root=True),
    **dict.fromkeys((
        "abs", "and", "atan2", "cbrt", "clamp", "cos", "cosh", "eq", "erf", "erf_inv", "erfc",
        "exp", "exp2", "expm1", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
        "logistic", "lt", "min", "ne", "not", "or", "select_n", "sign", "sin", "sinh", "square",
        "tan", "tanh", "xor"
    ), Rule(pointwise=True)),
    # the same, perhaps in another precision
    **dict.fromkeys((
        "convert_element_type", "copy", "reduce_precision"
    ), Rule(pointwise=True, same=True)),
    **dict.fromkeys((
        "copy_p", "optimization_barrier", "sharding_constraint", "stop_gradient"
    ), Rule(same=True)),
    # over several entries
    **dict.fromkeys((
        "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
        "reduce_xor", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "cumsum",
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
