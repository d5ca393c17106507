"""What is applied has the std, or the orthogonality, that was asked; or one sentence says why."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.models import RoleError
from tests.models.made import MADE, QUICK, N, variables

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, N))
SOME = [pytest.param(k, marks=() if k in QUICK else pytest.mark.long, id=k) for k in MADE]


def model(made):
    variables_ = {k: v for k, v in variables().items() if k in made.roles}
    return (lambda v, x: jax.nn.relu(x @ made.of(v))), variables_


@pytest.mark.parametrize("name", SOME)
def test_he_is_he_in_what_is_applied(name):
    made = MADE[name]
    apply, old = model(made)
    if not made.he:
        with pytest.raises(RoleError, match="sets its size, so that no draw"):
            jinit.reinit(KEY, apply, old, X)
        return
    new = jinit.reinit(KEY, apply, old, X)
    drawn = min(v.size for k, v in old.items() if k != "s")  # independent entries
    off = 5 * (1 / (2 * drawn)) ** 0.5
    assert float(made.of(new).std()) == pytest.approx((2 / N) ** 0.5, rel=off)
    if name not in ("MADE's mask", "weight norm", "an NTK factor"):
        return
    # And under jit, where no numbers are known, it is the same.
    jitted = jax.jit(lambda v: jinit.reinit(KEY, apply, v, X))(old)
    np.testing.assert_allclose(made.of(jitted), made.of(new), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", SOME)
def test_orthogonal_is_orthogonal_in_what_is_applied(name):
    made = MADE[name]
    apply, old = model(made)
    if not made.orthogonal:
        if name != "stacked, one of them scaled":  # each is orthogonal by itself
            with pytest.raises(RoleError, match=r"orthogonal.* leave it .*rules=\{.*: 'other'\}"):
                jinit.reinit(KEY, apply, old, X, scheme="orthogonal")
            return
        new = jinit.reinit(KEY, apply, old, X, scheme="orthogonal")
        for part in jnp.split(made.of(new), 2, 1):
            np.testing.assert_allclose(part.T @ part, jnp.eye(N // 2), atol=2e-2)
        return
    whole = made.of(jinit.reinit(KEY, apply, old, X, scheme="orthogonal"))
    np.testing.assert_allclose(whole.T @ whole, jnp.eye(N), atol=2e-2)


@pytest.mark.parametrize("name", MADE)
def test_roles_and_an_audit_of_what_is_applied(name):
    made = MADE[name]
    apply, old = model(made)
    rows = {row.path: row for row in jinit.audit(apply, old, X).rows}
    assert {path: row.role for path, row in rows.items()} == {
        f"['{k}']": role for k, role in made.roles.items()
    }
    whole = rows.get("['w']")
    if whole is not None and name != "two factors of full rank":
        assert (whole.fan_in, whole.fan_out) == (N, N)
        assert whole.std == pytest.approx(float(made.of(old).std()), rel=1e-4)
    if "a" in made.roles:
        assert (rows["['a']"].fan_in, rows["['a']"].fan_out) == (N, 4)
        assert (rows["['b']"].fan_in, rows["['b']"].fan_out) == (4, N)


def test_a_factor_after_the_product_belongs_to_the_matrix_but_not_that_of_attention():
    v = {"w": jax.random.normal(KEY, (N, N)), "b": jnp.zeros(N), "r": jnp.ones((N, 4))}

    def scaled(v, x):
        return jnp.tanh((x @ v["w"] + v["b"][None]) * N**-0.5) @ v["r"]

    new = jinit.reinit(KEY, scaled, v, X, scheme="xavier")
    assert float(new["w"].std()) == pytest.approx(1.0, rel=0.1)
    row = jinit.audit(scaled, new, X).rows[2]
    assert row.path == "['w']"
    assert row.gain == pytest.approx(1.0, rel=0.1)

    def attention(v, x):
        q, k = (x @ v["w"]) * 0.1, x @ v["b"]
        return jax.nn.softmax(q @ k.T) @ x

    v = {"w": jnp.ones((N, N)), "b": jnp.ones((N, N))}
    new = jinit.reinit(KEY, attention, v, X, scheme="xavier")
    assert float(new["w"].std()) == pytest.approx(N**-0.5, rel=0.1)


def test_a_norms_scale_that_is_added_to_one_starts_at_zero():
    def apply(v, x):
        h = x @ v["w"]
        return h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True)) * (1 + v["s"])[None]

    v = {"w": jnp.ones((N, N)), "s": jnp.full(N, 0.7)}
    assert float(jnp.abs(jinit.reinit(KEY, apply, v, X)["s"]).max()) == 0


def test_layers_that_are_stacked_in_the_model_to_be_looped_over():
    keys = jax.random.split(KEY, 3)
    v = {f"layer{i}": {"w": jax.random.normal(k, (N, N))} for i, k in enumerate(keys)}

    def apply(v, x):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *v.values())
        return jax.lax.scan(lambda h, p: (jnp.tanh(h @ p["w"] * 0.5), None), x, stacked)[0]

    rows = jinit.audit(apply, v, X).rows
    assert [(row.role, row.fan_in, row.layers) for row in rows] == [("weight", N, 1)] * 3
    new = jinit.reinit(KEY, apply, v, X, scheme="orthogonal")
    for i in range(3):
        w = 0.5 * new[f"layer{i}"]["w"]
        np.testing.assert_allclose(w @ w.T, jnp.eye(N), atol=1e-4)
    assert not jnp.allclose(new["layer0"]["w"], new["layer1"]["w"])
    found = jinit.diagnose(apply, new, X)
    assert [row.path for row in found.layers] == [f"['layer{i}']['w']" for i in range(3)]


def test_gates_split_after_a_product_are_orthogonal_one_by_one():
    def lstm(v, x):
        def step(c, x):
            z = x @ v["wx"] + c[0] @ v["wh"]
            i, f, g, o = jnp.split(z, 4, -1)
            s = jax.nn.sigmoid(f) * c[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(s), s), None

        return jax.lax.scan(step, (jnp.zeros((3, 12)),) * 2, x)[0][0]

    v = {"wx": jnp.zeros((8, 48)), "wh": jnp.zeros((12, 48))}
    new = jinit.reinit(KEY, lstm, v, jnp.ones((5, 3, 8)), scheme="orthogonal")
    for gate in jnp.split(new["wh"], 4, 1):
        np.testing.assert_allclose(gate @ gate.T, jnp.eye(12), atol=1e-4)

    def attention(v, x, *, rotated):
        q, k, u = jnp.moveaxis((x @ v["qkv"]).reshape(3, 5, 3, 2, 4), 2, 0)
        if rotated:  # its halves come together again: no gates
            a, b = jnp.split(q, 2, -1)
            q = jnp.concatenate([a - b, a + b], -1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), u)

    for rotated in (False, True):
        apply = lambda v, x, rotated=rotated: attention(v, x, rotated=rotated)  # noqa: E731
        new = jinit.reinit(
            KEY, apply, {"qkv": jnp.ones((8, 24))}, jnp.ones((3, 5, 8)), scheme="orthogonal"
        )
        for each in jnp.split(new["qkv"], 3, 1):
            np.testing.assert_allclose(each @ each.T, jnp.eye(8), atol=1e-4)


def test_complex_weights_are_drawn_and_judged():
    def spectral(w, x):
        return jnp.fft.irfft(jnp.einsum("bmi,mio->bmo", jnp.fft.rfft(x, axis=1), w), axis=1)

    x = jax.random.normal(KEY, (2, 8, 4))
    w = jax.random.normal(KEY, (5, 4, 4), complex)
    whole = jinit.reinit(KEY, lambda v, x: spectral(v["w"], x), {"w": w}, x)["w"]
    assert jnp.iscomplexobj(whole)
    assert float(jnp.mean(jnp.abs(whole) ** 2)) == pytest.approx(2 / 4, rel=5 / 80**0.5)
    halves = {"re": w.real, "im": w.imag}
    apply = lambda v, x: spectral(jax.lax.complex(v["re"], v["im"]), x)  # noqa: E731
    new = jinit.reinit(KEY, apply, halves, x)
    both = new["re"] ** 2 + new["im"] ** 2
    assert float(jnp.mean(both)) == pytest.approx(2 / 4, rel=5 / 80**0.5)
    roles = [(r.role, r.fan_in, r.groups) for r in jinit.audit(apply, halves, x).rows]
    assert roles == [("weight", 4, 5)] * 2
