"""Bad input: one sentence that says what was given, what is allowed, and how to mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jinit
from jinit import checks

# Annotations forbid most of this; a type checker at run time would speak first (CI, .ci/run).
pytestmark = pytest.mark.bad_input

KEY = jax.random.key(0)
NET = jinit.MLP((4, 3, 2))
SQUARE = jinit.MLP((3, 3, 2))
BATCH = jinit.MLP((4, 3, 2), norm="batch")
PARAMS, STATE = jax.jit(lambda k: jinit.init(k, NET))(KEY)
X, Y = np.zeros((5, 4), np.float32), np.zeros(5, np.int32)


def says(error, *parts):
    message = str(error.value)
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    assert "\n" not in message


def fails(kind, function, *parts):
    with pytest.raises(kind) as error:
        function()
    assert type(error.value) is kind  # not a subclass raised somewhere deep inside jax
    says(error, *parts)


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "given", "nearest"),
    [
        (lambda: jinit.scheme("havier"), "unknown scheme 'havier'", "'xavier'"),
        (lambda: jinit.init(KEY, NET, "orthognal"), "unknown scheme 'orthognal'", "'orthogonal'"),
        (lambda: jinit.init_params(KEY, [2, 2], "HE"), "unknown scheme 'HE'", "'he'"),
        (lambda: jinit.MLP((2, 2), activation="rellu"), "unknown activation 'rellu'", "'relu'"),
        (lambda: jinit.MLP((2, 2), norm="bacth"), "unknown norm 'bacth'", "'batch'"),
        (lambda: jinit.MLP((2, 2), residual="skipint"), "unknown residual 'skipint'", "'skipinit'"),
        (lambda: jinit.train_step(NET, optax.sgd(0.1), loss="crossentropy")(
            jinit.train_state(PARAMS, STATE, optax.sgd(0.1)), (X, Y)
        ), "unknown loss 'crossentropy'", "'cross_entropy'"),
        (lambda: jinit.scheme("looks_linear", place="frist"), "unknown place 'frist'", "'first'"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(function, given, nearest):
    fails(ValueError, function, given, f"did you mean {nearest}?", "Allowed: ")


def test_a_name_like_no_other_still_lists_what_is_allowed():
    fails(
        ValueError, lambda: jinit.scheme("qqqqqq"), "unknown scheme 'qqqqqq'.", "'xavier'", "'he'"
    )
    with pytest.raises(ValueError, match="unknown scheme 3"):
        jinit.scheme(3)


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_every_scheme_refuses_a_misspelt_option(name):
    fails(TypeError, lambda: jinit.scheme(name, scael=2), f"scheme {name!r} has no option 'scael'",
          "It takes")  # fmt: skip


def test_a_misspelt_option_is_answered_with_the_nearest():
    fails(TypeError, lambda: jinit.scheme("normal", scael=2), "did you mean 'scale'?")
    fails(TypeError, lambda: jinit.init(KEY, NET, "he", gian=2), "'gian'", "did you mean 'gain'?")
    fails(TypeError, lambda: jinit.init(KEY, NET, "zeros", gain=2), "It takes no options")


def test_functions_in_place_of_names():
    fails(
        TypeError, lambda: jinit.MLP((2, 2), activation=3), "activation must be", "'relu'", "got 3"
    )
    fails(TypeError, lambda: jinit.init(KEY, NET, 3), "scheme must be", "'he'", "got 3")
    draw = jax.nn.initializers.he_normal()
    fails(TypeError, lambda: jinit.init(KEY, NET, draw, gain=2), "no options", "['gain']")


@given(st.text(max_size=12))
def test_no_text_at_all_breaks_the_search_for_the_nearest_name(name):
    if name not in jinit.SCHEMES:
        with pytest.raises(ValueError, match="unknown scheme"):
            jinit.scheme(name)


# --- dims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "kind", "got"),
    [
        ([], ValueError, "got []"),
        ([4], ValueError, "got [4]"),
        ([4, 0, 2], ValueError, "got 0 at position 1"),
        ([4, -3], ValueError, "got -3 at position 1"),
        ([4.0, 2], ValueError, "got 4.0 at position 0"),
        ([4, 2.5], ValueError, "got 2.5 at position 1"),
        ([4, True], ValueError, "got True at position 1"),
        ([4, None], ValueError, "got None at position 1"),
        ([4, "3"], ValueError, "got '3' at position 1"),
        (4, TypeError, "got 4"),
        ("48", TypeError, "got '48'"),
        (None, TypeError, "got None"),
    ],
)
def test_dims(dims, kind, got):
    allowed = "dims must list at least two positive integer widths", "as in [64, 128, 10]"
    fails(kind, lambda: jinit.MLP(dims), *allowed, got)
    fails(kind, lambda: jinit.init_params(KEY, dims), *allowed, got)


@given(st.lists(st.integers(1, 9999), min_size=2, max_size=20))
def test_every_list_of_positive_widths_is_taken(widths):
    assert checks.dims(widths) == tuple(widths)
    assert checks.dims(np.array(widths)) == tuple(widths)
    assert all(type(n) is int for n in checks.dims(np.array(widths)))


# --- keys -----------------------------------------------------------------------------------

RBG = jax.random.key(0, impl="rbg")

BAD_KEYS = {
    "an int": (lambda: 0, TypeError, ["got 0"]),
    "None": (lambda: None, TypeError, ["got None"]),
    "a batch": (lambda: jax.random.split(KEY, 3), ValueError, ["shape (3,)", "jax.vmap"]),
    "a batch of legacy keys": (
        lambda: jax.random.split(jax.random.PRNGKey(0), 3),
        ValueError,
        ["shape (3,)", "jax.vmap"],
    ),
    "a uint32 array": (lambda: jnp.zeros(3, jnp.uint32), TypeError, ["uint32", "(3,)"]),
    "a uint32 scalar": (lambda: jnp.zeros((), jnp.uint32), TypeError, ["uint32", "()"]),
    "a float array": (lambda: jnp.zeros(2), TypeError, ["float32", "(2,)"]),
    "an rbg key": (lambda: RBG, ValueError, ["'rbg'", "impl='threefry2x32'"]),
    "an unsafe_rbg key": (
        lambda: jax.random.key(0, impl="unsafe_rbg"),
        ValueError,
        ["rbg", "impl='threefry2x32'"],
    ),
    "a batch of rbg keys": (lambda: jax.random.split(RBG, 2), ValueError, ["rbg"]),
    "a legacy rbg key": (
        lambda: jax.random.key_data(RBG),
        ValueError,
        ["(4,)", "rbg", "impl='threefry2x32'"],
    ),
}

TAKES_A_KEY = {
    "scheme": lambda key: jinit.scheme("he")(key, (2, 2)),
    "init": lambda key: jinit.init(key, NET),
    "init_params": lambda key: jinit.init_params(key, [2, 2]),
    "train": lambda key: jinit.train(
        key, NET, PARAMS, STATE, (X, Y), optimizer=optax.sgd(0.1), steps=1
    ),
    "layer_signals": lambda key: jinit.layer_signals(NET, PARAMS, STATE, X, key=key),
    "gaussian": lambda key: jinit.data.gaussian(key, 10, 2),
}


@pytest.mark.parametrize(
    ("function", "bad"),
    # Without a key layer_signals takes labels, and has a sentence of its own.
    [(f, b) for f in TAKES_A_KEY for b in BAD_KEYS if (f, b) != ("layer_signals", "None")],
)
def test_keys(function, bad):
    make, kind, parts = BAD_KEYS[bad]
    key = make()
    fails(kind, lambda: TAKES_A_KEY[function](key), "key must be one PRNG key",
          "jax.random.key(0)", *parts)  # fmt: skip


def test_an_rbg_key_is_refused_under_vmap_and_jit_too():
    """There it would use the first key only, and a jit inside the vmap would hide it."""
    with pytest.raises(ValueError, match="rbg"):
        jax.vmap(jax.jit(lambda k: jinit.init(k, NET)))(jax.random.split(RBG, 2))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_mapped_key_is_one_key(shape):
    keys = jax.random.split(KEY, shape) if shape else KEY
    f = lambda k: checks.key(k)  # noqa: E731
    assert (jax.vmap(f)(keys) if shape else f(keys)).shape == shape


# --- numbers --------------------------------------------------------------------------------

BAD_NUMBERS = [
    ("1", TypeError, "got '1'"),
    (None, TypeError, "got None"),
    (True, TypeError, "got True"),
    (1j, TypeError, "got 1j"),
    ([1.0], TypeError, "got [1.0]"),
    (float("nan"), ValueError, "got nan"),
    (float("inf"), ValueError, "got inf"),
    (np.float32("nan"), ValueError, "nan"),
    (np.ones(2), ValueError, "shape (2,)"),
    (np.array(True), TypeError, "got dtype bool"),
    (np.array(1j), TypeError, "got dtype complex128"),
]


@pytest.mark.parametrize(("value", "kind", "got"), BAD_NUMBERS)
def test_numbers(value, kind, got):
    for option, function in {
        "gain": lambda: jinit.scheme("he", gain=value),
        "scale": lambda: jinit.init(KEY, NET, "normal", scale=value),
        "bias_var": lambda: jinit.init(KEY, NET, bias_var=value),
        "momentum": lambda: jinit.MLP((2, 2), momentum=value),
        "eps": lambda: jinit.MLP((2, 2), eps=value),
    }.items():
        fails(kind, function, f"{option} must be one finite real number or a scalar array", got)


def test_a_vector_of_gains_is_told_to_be_mapped():
    fails(ValueError, lambda: jinit.scheme("he", gain=jnp.ones(3)), "(3,)", "jax.vmap")


def test_a_traced_vector_of_gains_is_refused_too():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        jax.eval_shape(lambda g: jinit.scheme("he", gain=g)(KEY, (2, 2)), jnp.ones(3))


def test_ranges_of_numbers():
    fails(ValueError, lambda: jinit.MLP((2, 2), momentum=1.0), "momentum", "[0, 1)", "got 1.0")
    fails(ValueError, lambda: jinit.MLP((2, 2), momentum=-0.1), "momentum", "got -0.1")
    fails(ValueError, lambda: jinit.MLP((2, 2), eps=-1.0), "eps", "negative", "got -1.0")
    fails(ValueError, lambda: jinit.init(KEY, NET, bias_var=-1.0), "bias_var", "got -1.0")
    fails(ValueError, lambda: jinit.init(KEY, jinit.MLP((2, 2), bias=False), bias_var=0.1),
          "bias_var=0.1", "bias=True")  # fmt: skip
    fails(TypeError, lambda: jinit.MLP((2, 2), bias=1), "bias must be True or False", "got 1")
    fails(TypeError, lambda: jinit.MLP((2, 2), momentum=jnp.asarray(0.5)), "a Python number")
    fails(TypeError, lambda: jinit.scheme("truncated_normal", corrected=1), "corrected", "got 1")


def test_shapes_and_dtypes_of_initializers():
    fails(ValueError, lambda: jinit.scheme("he")(KEY, (2, -1)), "every axis of shape", "got -1")
    fails(ValueError, lambda: jinit.scheme("he")(KEY, (2, 2.0)), "every axis of shape", "got 2.0")
    fails(TypeError, lambda: jinit.scheme("he")(KEY, (2, 2), jnp.int32), "floating", "int32")


# --- arrays ---------------------------------------------------------------------------------

USES_X = {
    "forward": lambda x: jinit.forward(NET, PARAMS, STATE, x, train=True),
    "layer_signals": lambda x: jinit.layer_signals(NET, PARAMS, STATE, x, key=KEY),
    "train": lambda x: jinit.train(
        KEY, NET, PARAMS, STATE, (x, Y), optimizer=optax.sgd(0.1), steps=1
    ),
    "evaluate": lambda x: jinit.evaluate(NET, PARAMS, STATE, x, Y),
}


@pytest.mark.parametrize("function", USES_X)
@pytest.mark.parametrize("shape", [(5, 3), (4,), (5, 2, 2), (5, 4, 1), ()])
def test_x_of_another_width_or_rank(function, shape):
    fails(ValueError, lambda: USES_X[function](np.zeros(shape, np.float32)),
          "x must have shape [batch, 4]", "widths [4, 3, 2]", f"got {list(shape)}",
          "reshape x or change dims[0]")  # fmt: skip


USES_PARAMS = {
    "forward": lambda p: jinit.forward(NET, p, STATE, X, train=True),
    "layer_signals": lambda p: jinit.layer_signals(NET, p, STATE, X, key=KEY),
    "train": lambda p: jinit.train(
        KEY, NET, p, STATE, (X, Y), optimizer=optax.sgd(0.1), steps=1
    ),
}  # fmt: skip

OTHERS = {
    "wider": jinit.MLP((4, 5, 2)),
    "deeper": jinit.MLP((4, 3, 3, 2)),
    "shallower": jinit.MLP((4, 2)),
    "with another input": jinit.MLP((3, 3, 2)),
    "without biases": jinit.MLP((4, 3, 2), bias=False),
    "with batch norm": BATCH,
}


@pytest.mark.parametrize("function", USES_PARAMS)
@pytest.mark.parametrize("other", OTHERS)
def test_parameters_of_another_network(function, other):
    params = shaped_zeros(OTHERS[other])[0]
    advice = "params belong to another network", "[4, 3, 2]", "jinit.init(key, net)"
    fails(ValueError, lambda: USES_PARAMS[function](params), *advice)
    fails(ValueError, lambda: USES_PARAMS[function](list(params)), *advice)


def shaped_zeros(net):
    shapes = jax.eval_shape(lambda k: jinit.init(k, net), KEY)
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def test_parameters_of_several_networks_are_told_to_be_mapped():
    several = jax.tree.map(lambda a: np.stack([a, a]), PARAMS)
    fails(ValueError, lambda: USES_PARAMS["forward"](several), "another network", "jax.vmap")


def test_parameters_of_another_kind():
    fails(TypeError, lambda: USES_PARAMS["forward"]({"w": X}), "jinit.Layer", "got dict")
    fails(TypeError, lambda: USES_PARAMS["forward"]([X, X]), "jinit.Layer", "got list")
    fails(TypeError, lambda: jinit.init(KEY, [4, 3, 2]), "net must be a jinit.MLP", "got [4, 3, 2]")


def test_a_state_that_does_not_fit():
    params, _ = shaped_zeros(BATCH)
    for state in (None, STATE, shaped_zeros(jinit.MLP((4, 5, 2), norm="batch"))[1]):
        fails(ValueError, lambda state=state: jinit.forward(BATCH, params, state, X, train=True),
              "state must hold batch statistics of shapes [(1, 3)]", "jinit.init")  # fmt: skip


def test_a_batch_of_one_in_training():
    params, state = shaped_zeros(BATCH)
    allowed = "at least 2 samples, got 1", "train=False"
    fails(ValueError, lambda: jinit.forward(BATCH, params, state, X[:1], train=True), *allowed)
    fails(ValueError, lambda: jinit.layer_signals(BATCH, params, state, X[:1], key=KEY), *allowed)
    assert jinit.forward(BATCH, params, state, X[:1], train=False)[0].shape == (1, 2)


USES_Y = {
    "train": lambda y: jinit.train(
        KEY, NET, PARAMS, STATE, (X, y), optimizer=optax.sgd(0.1), steps=1
    ),
    "evaluate": lambda y: jinit.evaluate(NET, PARAMS, STATE, X, y),
    "layer_signals": lambda y: jinit.layer_signals(NET, PARAMS, STATE, X, y),
}


@pytest.mark.parametrize("function", USES_Y)
def test_labels_out_of_range(function):
    for label in (2, -1):
        y = np.array([0, 1, 0, 1, label])
        low, high = y.min(), y.max()
        fails(ValueError, lambda y=y: USES_Y[function](y), "labels from 0 to 1 for 2 classes",
              f"got labels from {low} to {high}", "renumber them")  # fmt: skip
    fails(ValueError, lambda: USES_Y[function](Y[:3]), "one entry per sample, 5", "got [3]")
    fails(ValueError, lambda: USES_Y[function](np.zeros((5, 3), np.float32)), "shape [5, 2]",
          "got [5, 3]", "class labels must be integers")  # fmt: skip


def test_nan_in_the_data():
    x, y = X.copy(), np.zeros((5, 2), np.float32)
    x[3, 1], y[2, 0] = np.nan, np.inf
    advice = "must be finite, got 1 NaN or infinite entries", "drop or impute"
    for function in (USES_X["train"], USES_X["layer_signals"]):
        fails(ValueError, lambda f=function: f(x), "x must be", *advice, "the first at (3, 1)")
    fails(ValueError, lambda: jinit.data.from_arrays(x, Y), *advice, "(3, 1)")
    for function in USES_Y.values():
        fails(ValueError, lambda f=function: f(y), "y must be", *advice, "the first at (2, 0)")


def test_layer_signals_needs_an_output_gradient():
    fails(
        ValueError,
        lambda: jinit.layer_signals(NET, PARAMS, STATE, X),
        "labels y",
        "key=",
        "neither",
    )


def test_bins():
    for bins in (3.0, [1.0], np.zeros((2, 2))):
        fails(
            ValueError,
            lambda b=bins: jinit.layer_signals(NET, PARAMS, STATE, X, key=KEY, bins=b),
            "bins must be a vector",
            "np.linspace",
        )
    fails(ValueError, lambda: jinit.layer_signals(
        NET, PARAMS, STATE, X, key=KEY, bins=[0.0, np.nan]), "bins must be finite")  # fmt: skip


# --- training -------------------------------------------------------------------------------


def run(data=(X, Y), net=NET, **options):
    return jinit.train(
        KEY, net, PARAMS, STATE, data, **{"optimizer": optax.sgd(0.1), "steps": 2} | options
    )


def test_options_of_train():
    fails(ValueError, lambda: run(steps=-1), "steps must be an integer of at least 0", "got -1")
    fails(ValueError, lambda: run(steps=1.5), "steps must be an integer", "got 1.5")
    fails(ValueError, lambda: run(batch_size=6), "at most the number of training samples, 5",
          "got 6", "batch_size=None")  # fmt: skip
    fails(ValueError, lambda: run(batch_size=0), "batch_size must be an integer of at least 1")
    fails(TypeError, lambda: run(optimizer=0.1), "optax.sgd(0.1)", "got 0.1")
    fails(TypeError, lambda: run(data=X), "jinit.Data", "pair (x, y)", "got ndarray")
    fails(TypeError, lambda: run(data=(X,)), "jinit.Data", "got tuple")
    fails(ValueError, lambda: run(signals_at=[2]), "signals_at", "0 to 1", "got [2]")
    fails(ValueError, lambda: run(signals_at=[0, 0]), "different steps", "got [0, 0]")
    fails(ValueError, lambda: run(signals_at=[-1]), "signals_at", "got -1")
    fails(ValueError, lambda: run(loss="binary_cross_entropy"), "one output, got 2",
          "'cross_entropy'")  # fmt: skip


def test_cross_entropy_of_one_output():
    net = jinit.MLP((4, 1))
    params, state = shaped_zeros(net)
    fails(ValueError, lambda: jinit.evaluate(net, params, state, X, Y, loss="cross_entropy"),
          "one output per class", "'binary_cross_entropy'")  # fmt: skip


# --- data and theory ------------------------------------------------------------------------


def test_data_functions():
    fails(ValueError, lambda: jinit.data.from_arrays(Y, Y), "[samples, features]", "got [5]",
          "x.reshape(len(x), -1)")  # fmt: skip
    fails(ValueError, lambda: jinit.data.from_arrays(X, Y[:3]), "one row per sample", "5", "3")
    fails(ValueError, lambda: jinit.data.from_arrays(X, Y - 1), "count from 0, got -1", "renumber")
    fails(ValueError, lambda: jinit.data.digits(test_fraction=1.5), "between 0 and 1", "got 1.5")
    fails(TypeError, lambda: jinit.data.digits(test_fraction="a"), "test_fraction", "got 'a'")
    fails(ValueError, lambda: jinit.data.circles(2), "samples", "at least 4", "got 2")
    fails(ValueError, lambda: jinit.data.gaussian(KEY, 10, 0), "features", "at least 1", "got 0")
    fails(ValueError, lambda: jinit.data.gaussian(KEY, 10, 2, classes=1), "classes", "got 1")
    lonely = np.array([0, 0, 0, 0, 1])
    fails(ValueError, lambda: jinit.data.from_arrays(X, lonely), "twice", "(1 of 2)")


def test_theory_functions():
    from jinit.theory import trajectory

    fails(ValueError, lambda: trajectory("tnah", depth=2, weight_var=1.0), "did you mean 'tanh'?")
    fails(ValueError, lambda: trajectory("tanh", depth=0, weight_var=1.0), "depth", "got 0")
    fails(
        ValueError, lambda: trajectory("tanh", depth=2, weight_var=-1.0), "weight_var", "got -1.0"
    )
    fails(TypeError, lambda: trajectory("tanh", depth=2, weight_var="1"), "weight_var", "got '1'")
