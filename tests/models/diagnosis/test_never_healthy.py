"""What was not seen, or is too little to judge, is said; faults of small models are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (64, 64))


def draws(*shapes, gain=2.0**0.5):
    keys = jax.random.split(jax.random.key(3), len(shapes))
    return [
        gain * jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, shape in zip(keys, shapes, strict=True)
    ]


def relu_net(w, x):
    for i, own in enumerate(w):
        x = (x if i == 0 else jax.nn.relu(x)) @ own
    return x


@pytest.mark.parametrize(("depth", "odd"), [(2, 1), (2, 0), (3, 1), (4, 2)])
@pytest.mark.parametrize("times", [0.01, 50.0])
def test_one_odd_layer_of_few_is_named(depth, odd, times):
    w = draws(*[(64, 64)] * depth)
    w[odd] = times * w[odd]
    d = jinit.diagnose(relu_net, w, X)
    assert f"[{odd}]" in d.findings[0].sentence
    assert not d.is_healthy
    assert jinit.diagnose(relu_net, draws(*[(64, 64)] * depth), X).findings == ()


def test_few_layers_one_row_and_none_are_not_called_healthy():
    two = jinit.diagnose(relu_net, draws((64, 64), (64, 10)), X)
    assert two.verdict.startswith("Nothing wrong in 2 layers, too few to tell what depth does")
    one = jinit.diagnose(relu_net, draws((64, 10)), X)
    assert "does not tell whether a signal survives depth" in one.verdict
    none = jinit.diagnose(lambda p, x: x * p[None], jnp.ones(64), X)
    assert "nothing can be said" in none.verdict
    assert [d.is_healthy for d in (two, one, none)] == [False] * 3
    three = jinit.diagnose(relu_net, draws(*[(64, 64)] * 3), X)
    assert three.is_healthy
    assert three.to_json()["healthy"] is True


@pytest.mark.parametrize("name", ["wide relu", "tanh"])
def test_growth_of_every_layer_is_named_and_not_the_last_one(name):
    grown = draws(*[(256, 256)] * 8, (256, 10), gain=2.2)

    def apply(w, x):
        for own in w[:-1]:
            x = x @ own if name == "tanh" else jax.nn.relu(x @ own)
        return x @ w[-1]

    x = jax.random.normal(KEY, (64, 256))
    if name == "tanh":
        grown = draws(*[(256, 256)] * 8, (256, 10), gain=1.6)
    d = jinit.diagnose(apply, grown, x)
    assert d.findings[0].kind in ("output", "explode")
    assert len(d.findings[0].layers) == 9
    assert "jinit.reinit" in d.verdict


def scaled_lora(v, x):
    return jax.nn.relu(x @ v["w"] + 4.0 * ((x @ v["A"]) @ v["B"])) @ v["h"]


def gated(v, x):
    return x @ v["w"] + (x @ v["A"]) * jnp.tanh(x @ v["B"])


def modulated(v, x):
    return (jnp.tanh(x @ v["w"]) + v["A"][None] * (x @ v["B"])) @ v["h"]


STUCK = {
    "scaled LoRA": (scaled_lora, {"w": (64, 64), "A": (64, 4), "B": (4, 64), "h": (64, 8)}),
    "gate and value": (gated, {"w": (64, 64), "A": (64, 64), "B": (64, 64)}),
    "a factor and a branch": (
        modulated, {"w": (64, 64), "A": (64,), "B": (64, 64), "h": (64, 8)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STUCK)
def test_two_factors_that_are_both_zero_never_learn_and_one_is_by_design(name):
    apply, shapes = STUCK[name]
    v = dict(zip(shapes, draws(*shapes.values()), strict=True))
    both = v | {k: 0 * v[k] for k in "AB"}
    d = jinit.diagnose(apply, both, X)
    assert d.findings[0].kind == "stuck", d.verdict
    assert d.findings[0].layers == ("A", "B")
    one = v | {"B": 0 * v["B"]}
    assert jinit.diagnose(apply, one, X).findings == ()
    found = jinit.audit(apply, one, X)
    assert found.odd == ()
    assert dict(found.remarks)["['B']"].startswith("it starts at 0")


def test_a_zero_layer_in_the_middle_is_odd_and_a_zero_head_or_class_token_is_not():
    w = draws(*[(64, 64)] * 4)
    middle = jinit.audit(relu_net, [w[0], 0 * w[1], *w[2:]], X)
    assert "no gradient passes back" in dict(middle.odd)["[1]"]
    head = [*w[:3], 0 * w[3]]
    assert jinit.audit(relu_net, head, X).odd == ()
    d = jinit.diagnose(relu_net, head, X)
    assert d.findings == ()
    assert "starts at 0, as some readouts do" in d.remarks[0]

    def token(v, x):
        cls = jnp.broadcast_to(v["cls"], (8, 1, 64))
        return jnp.concatenate([cls, x.reshape(8, 8, 64)], 1) @ v["w"]

    found = jinit.audit(token, {"cls": jnp.zeros((1, 1, 64)), "w": w[0]}, X)
    assert found.odd == ()
    assert dict(found.remarks)["['cls']"].startswith("it starts at 0, as class tokens")


def cross_entropy(output, targets):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(output), targets[:, None], 1))


def test_a_first_loss_far_from_that_of_zeros_is_named_beside_it():
    w, y = draws((64, 64), (64, 10)), jnp.arange(64) % 10
    d = jinit.Model(relu_net, w, X, loss=cross_entropy).diagnose(targets=y)
    assert d.uninformed == pytest.approx(np.log(10), abs=1e-5)
    assert d.findings == ()
    large = [w[0], 8 * w[1]]
    d = jinit.Model(relu_net, large, X, loss=cross_entropy).diagnose(targets=y)
    assert "where an output of zeros has ln 10 = 2.303" in " ".join(f.sentence for f in d.findings)
    known = jinit.Model(lambda w, x: x @ w, 9 * jnp.eye(64), X, loss=cross_entropy)
    d = known.diagnose(targets=jnp.argmax(X, 1))
    assert "far below" in " ".join(d.remarks)


def test_attention_logits_are_measured_as_by_hand():
    q, k, v = draws((64, 32), (64, 32), (64, 32), gain=1.0)
    p = {"q": q, "k": k, "v": v}

    def apply(p, x):
        logits = (x @ p["q"]) @ (x @ p["k"]).T / 32**0.5
        logits = jnp.where(jnp.tril(jnp.ones((64, 64), bool)), logits, -1e9)
        return jax.nn.softmax(logits) @ (x @ p["v"])

    (got,) = jinit.diagnose(apply, p, X).attention
    logits = np.asarray((X @ q) @ (X @ k).T / 32**0.5, np.float64)
    stds, shares = [], []
    for i in range(1, 64):
        row = logits[i, : i + 1]
        e = np.exp(row - row.max())
        e /= e.sum()
        stds.append(row.var())
        shares.append(-(e * np.log(e)).sum() / np.log(i + 1))
    assert got.std == pytest.approx(np.sqrt(np.mean(stds)), rel=1e-3)
    assert got.entropy == pytest.approx(np.mean(shares), rel=1e-3)
    assert got.after == "q x k"
    d = jinit.diagnose(apply, {"q": 5 * q, "k": 5 * k, "v": v}, X)
    assert "attention" in {f.kind for f in d.findings}


@pytest.mark.parametrize(("gain", "whose"), [(2.0, "He's"), (1.0, "")])
def test_a_truncation_that_was_not_corrected_is_named(gain, whose):
    w = [
        jax.random.truncated_normal(key, -2, 2, (128, 128)) * (gain / 128) ** 0.5
        for key in jax.random.split(KEY, 3)
    ]
    found = jinit.audit(relu_net, w, jnp.ones((2, 128)))
    if whose:
        assert len(found.odd) == 3
        assert "0.88 of He's" in found.odd[0][1]
    else:  # it is haiku's own way
        assert found.rows[0].matches == ("haiku",)
        assert found.odd == ()


def test_leaves_of_one_key_are_named():
    same = jax.random.normal(KEY, (64, 64))
    w = [same / 8, draws((64, 64))[0], same / 4]
    found = jinit.audit(relu_net, w, X)
    assert "same numbers as [0]" in dict(found.odd)["[2]"]
    assert jinit.diagnose(relu_net, w, X).findings[0].kind == "copies"


def test_complex_weights_far_too_small_are_named():
    def apply(v, x):
        h = jnp.fft.rfft(x.reshape(2, 8, 4), axis=1)
        return jnp.fft.irfft(jnp.einsum("bmi,mio->bmo", h, v["w"]), axis=1) @ v["h"]

    w = jax.random.normal(KEY, (5, 4, 4), complex)
    d = jinit.diagnose(apply, {"w": 1e-6 * w, "h": draws((4, 4))[0]}, X[:1])
    assert d.findings[0].layers == ("w",)
    assert jinit.diagnose(apply, {"w": w / 2, "h": draws((4, 4))[0]}, X[:1]).findings == ()


def test_a_loop_that_is_given_what_an_activation_made_is_measured():
    """What meets its activation before a loop is looked at before it."""
    w, q, u, z, out = draws(*[(64, 64)] * 4, (64, 4), gain=1.0)

    def apply(p, x):
        h, scaled = jnp.tanh(x @ p["w"]), (x @ p["q"]) * 0.5

        def step(c, _):
            return jnp.tanh(c @ p["u"] + h @ p["z"] + scaled), None

        return jax.lax.scan(step, jnp.zeros((64, 64)), None, length=5)[0] @ p["out"]

    p = {"w": w, "q": q, "u": u, "z": z, "out": out}
    d = jinit.diagnose(apply, p, X)
    seen = {row.layer: row for row in d.layers}
    assert set(seen) == set(p)
    expected = float(jnp.log(jnp.sqrt(jnp.mean((X @ w) ** 2))))
    assert seen["w"].log_pre == pytest.approx(expected, abs=1e-4)
    assert seen["w"].activation == "tanh"


@pytest.mark.parametrize(
    "positive",
    [jnp.exp, *(pytest.param(f, marks=pytest.mark.long) for f in (jax.nn.softplus, jnp.abs))],
)
def test_weights_of_one_sign_add_up_whatever_their_std(positive):
    weights = [jax.random.normal(jax.random.key(i), (64, 64)) for i in range(4)]
    x = jax.random.normal(jax.random.key(9), (16, 64))

    def apply(weights, x):
        for w in weights:
            x = jax.nn.relu(x @ positive(w))
        return x

    drawn = jinit.reinit(jax.random.key(0), apply, weights, x, scheme="he")
    mean = float(np.mean(positive(drawn[2])))
    rows = jinit.audit(apply, drawn, x).rows
    assert all(f"x{64 * mean:.2g}"[:3] in row.odd[0] for row in rows[2:3])
    assert all("as applied are positive" in odd for row in rows for odd in row.odd)
    (finding,) = (f for f in jinit.diagnose(apply, drawn, x).findings if f.kind == "explode")
    assert "Draw them with mean 0; where they must be positive" in finding.sentence

    # The cure works: a mean of 1 / fan_in.
    cured = jinit.diagnose(lambda w, x: apply_scaled(w, x, positive), drawn, x)
    assert not any(f.kind == "explode" for f in cured.findings)


def apply_scaled(weights, x, positive):
    for w in weights:
        applied = positive(w)
        x = jax.nn.relu(x @ (applied / jnp.mean(applied) / len(w)))
    return x


NORMS = {
    "layer norm": lambda h: (h - h.mean(-1, keepdims=True)) / (h.std(-1, keepdims=True) + 1e-3),
    "rms norm": lambda h: h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-3),
    "length": lambda h: h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + 1e-3),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_first_layer_of_zeros_does_not_meet_another_signal_in_a_norm_of_itself(name):
    def apply(w, x):
        h = x @ w["lift"] + w["b"][None]
        for branch in w["branches"]:
            h = h + jax.nn.relu(NORMS[name](h)) @ branch
        return h @ w["readout"]

    keys = jax.random.split(jax.random.key(0), 6)
    w = {"lift": jnp.zeros((8, 16)), "b": jax.random.normal(keys[0], (16,)),
         "branches": [0.2 * jax.random.normal(k, (16, 16)) for k in keys[1:4]],
         "readout": jax.random.normal(keys[4], (16, 4)) / 4}  # fmt: skip
    x = jax.random.normal(keys[5], (32, 8))
    found = jinit.diagnose(apply, w, x)
    assert [(f.kind, f.layers) for f in found.findings] == [("zero", ("lift",))]
    # The end of a branch may be 0 as ever.
    w = {**w, "lift": jax.random.normal(keys[5], (8, 16)) / 3}
    w["branches"][2] = jnp.zeros((16, 16))
    assert not jinit.diagnose(apply, w, x).findings
