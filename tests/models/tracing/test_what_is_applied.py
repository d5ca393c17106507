"""Roles through dead code, sums of products, ones, fixed indices, complex numbers, experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jinit
from jinit.models import RoleError, roles
from jinit.models.tracing.made import Numbers
from jinit.models.tracing.trace import trace_model

KEY = jax.random.key(0)


def n(*shape):
    return jax.random.normal(KEY, shape)


def found(apply, p, *inputs, **options):
    return {
        role.path.strip("[]'"): (role.kind, role.fan_in, role.fan_out)
        for role in roles(apply, p, *inputs, **options)
    }


X = jax.random.normal(jax.random.key(1), (6, 8))

# --- dead code ----------------------------------------------------------------------------------


class Normed(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, x):
        layer = lambda m, x: (nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x)), None)  # noqa: E731
        if self.scan:
            scanned = nn.scan(
                lambda m, x, _: layer(m, x), variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True}, length=3,
            )  # fmt: skip
            return scanned(self, x, None)[0]
        return nn.relu(layer(self, x)[0])


@pytest.mark.parametrize("way", [
    "thrown away", "by hand", "scanned", pytest.param("returned", marks=pytest.mark.long),
    pytest.param("compiled", marks=pytest.mark.long),
])  # fmt: skip
def test_running_statistics_are_statistics_whatever_becomes_of_the_new_ones(way):
    with jax.numpy_rank_promotion("allow"):
        net = Normed(scan=way == "scanned")
        v = net.init(KEY, X)

        def new(v, x):
            return net.apply(v, x, mutable=["batch_stats"])

        apply = {"returned": new, "compiled": lambda v, x: jax.jit(new)(v, x)[0]}.get(
            way, lambda v, x: new(v, x)[0]
        )
        if way == "by hand":
            v = {"batch_stats": {"mean": jnp.zeros(8), "var": jnp.ones(8)}, "w": n(8, 8)}

            def apply(v, x):
                h, old = x @ v["w"], v["batch_stats"]
                kept = {  # noqa: F841
                    "mean": 0.9 * old["mean"] + 0.1 * h.mean(0), "var": 0.9 * old["var"] + h.var(0)
                }  # fmt: skip
                return (h - h.mean(0)) / h.std(0)

        kinds = {role.path: role.kind for role in roles(apply, v, X)}
        statistics = {path for path in kinds if "batch_stats" in path}
        assert len(statistics) == 2
        assert {kinds[path] for path in statistics} == {"statistic"}
        fresh = jinit.reinit(KEY, apply, v, X)
    for old, now in zip(
        jax.tree.leaves(v["batch_stats"]), jax.tree.leaves(fresh["batch_stats"]), strict=True
    ):
        np.testing.assert_array_equal(old, now)


def test_what_is_returned_itself_is_used_and_what_is_thrown_away_is_not():
    p = {"w": n(8, 3), "log_std": jnp.zeros(3), "value": n(8, 1)}
    both = lambda p, x: (x @ p["w"], p["log_std"], x @ p["value"])  # noqa: E731
    assert found(both, p, X)["log_std"][0] == "other"
    rows = {row.path: row for row in jinit.audit(both, p, X).rows}
    assert rows["['log_std']"].odd == ()
    one = found(lambda p, x: both(p, x)[0], p, X)
    assert (one["value"][0], one["log_std"][0]) == ("unused", "unused")


# --- sums of products ---------------------------------------------------------------------------

SUMS = {
    "[out, in]": (lambda w, x: (x[:, None, :] * w[None]).sum(-1), (4, 8), (8, 4)),
    "[in, out]": (lambda w, x: (x[:, :, None] * w[None]).sum(1), (8, 4), (8, 4)),
    "the weight first, and a mean": (lambda w, x: (w[None] * x[:, None]).mean(2), (4, 8), (8, 4)),
    "one output": (lambda w, x: (x * w[None]).sum(1), (8,), (8, 1)),
    "in bfloat16": (lambda w, x: (x[:, None].astype(jnp.bfloat16) * w[None].astype(jnp.bfloat16))
                    .astype(jnp.float32).sum(-1), (4, 8), (8, 4)),
    "mapped": (lambda w, x: jax.vmap(lambda x: jax.vmap(lambda r: jnp.sum(r * x))(w))(x),
               (4, 8), (8, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_a_product_and_a_sum_are_a_matrix_product(name):
    apply, shape, fans = SUMS[name]
    (role,) = roles(apply, jnp.ones(shape), X)
    assert (role.kind, role.fan_in, role.fan_out) == ("weight", *fans)
    matrix = role.applied(Numbers(trace_model(apply, jnp.ones(shape), X).made, [n(*shape)]))[0]
    out = np.asarray(apply(n(*shape), X).reshape(6, -1), np.float32)
    np.testing.assert_allclose(X @ matrix, out, rtol=0.1, atol=0.1)


def test_a_norms_scale_and_a_pooled_factor_are_no_weights():
    def apply(p, x):
        h = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True)) * p["norm"][None]
        return (h[None] * p["layer"]).mean(1)

    got = found(apply, {"norm": jnp.ones(8), "layer": jnp.ones((1, 1, 8))}, X)
    assert {kind for kind, *_ in got.values()} == {"scale"}


# --- ones, and indices that the program holds ---------------------------------------------------

TOKENS = jnp.array([[3, 1, 4], [1, 5, 9]])
LOOKUPS = {
    "by number": lambda e, t: e[t],
    "by take": lambda e, t: jnp.take(e, t, axis=0),
    "by ones": lambda e, t: jax.nn.one_hot(t, 20) @ e,
    "by einsum of ones": lambda e, t: jnp.einsum("btv,vd->btd", jax.nn.one_hot(t, 20), e),
    "by comparison": lambda e, t: (t[..., None] == jnp.arange(20)[None, None]).astype(e.dtype) @ e,
    "flat": lambda e, t: (jax.nn.one_hot(t.reshape(-1), 20) @ e).reshape(2, 3, 5),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_table_is_an_embedding_however_it_is_looked_up(name):
    p = {"e": n(20, 5), "h": n(5, 2)}
    apply = lambda p, t: LOOKUPS[name](p["e"], t) @ p["h"]  # noqa: E731
    assert found(apply, p, TOKENS) == {
        "e": ("embedding", None, None), "h": ("weight", 5, 2)
    }  # fmt: skip
    new = jinit.reinit(KEY, apply, p, TOKENS)["e"]
    assert float(new.std()) == pytest.approx(5**-0.5, rel=5 / 200**0.5)


SHARED = {
    "circulant": lambda k: k[(jnp.arange(8)[None] - jnp.arange(8)[:, None]) % 8],
    "toeplitz": lambda k: jnp.stack([jnp.roll(k, i) for i in range(8)]),
    "by take": lambda k: jnp.take(k, (jnp.arange(8)[None] + jnp.arange(8)[:, None]) % 8),
}


@pytest.mark.parametrize("name", ["circulant", pytest.param("toeplitz", marks=pytest.mark.long),
                                  pytest.param("by take", marks=pytest.mark.long)])  # fmt: skip
def test_a_weight_that_symmetry_shares(name):
    apply = lambda k, x: jnp.tanh(x @ SHARED[name](k))  # noqa: E731
    (role,) = roles(apply, n(8), X)
    assert (role.kind, role.fan_in, role.fan_out) == ("weight", 8, 8)
    drawn = jax.jit(jax.vmap(lambda key: jinit.reinit(key, apply, n(8), X)))(
        jax.random.split(KEY, 40)
    )
    assert float(drawn.std()) == pytest.approx(0.5, rel=5 / (2 * 320) ** 0.5)


def test_learned_positions_picked_by_the_program_are_an_embedding():
    apply = lambda p, x: (x + p["at"][jnp.arange(6)]) @ p["w"]  # noqa: E731
    got = found(apply, {"at": n(10, 8), "w": n(8, 3)}, X)
    assert got["at"][0] == "embedding"


# --- experts ------------------------------------------------------------------------------------


def by_index(p, x):
    chosen = (x @ p["router"]).argmax(-1)
    return jnp.einsum("bd,bdf->bf", x, p["experts"][chosen]) + p["bias"][chosen]


def by_two(p, x):
    weights, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    each = jnp.einsum("bd,bkdf->bkf", x, p["experts"][chosen]) + p["bias"][chosen]
    return jnp.einsum("bk,bkf->bf", weights, each)


def by_ones(p, x):
    chosen = jax.nn.one_hot((x @ p["router"]).argmax(-1), 3)
    own = jnp.einsum("be,edf->bdf", chosen, p["experts"])
    return jnp.einsum("bd,bdf->bf", x, own) + chosen @ p["bias"]


def ragged(p, x):
    counts = jnp.bincount((x @ p["router"]).argmax(-1), length=3)
    return jax.lax.ragged_dot(x, p["experts"], counts) + p["bias"][jnp.zeros(6, int)]


@pytest.mark.parametrize("apply", [by_index, by_two, by_ones, ragged])
def test_experts_are_weights_one_by_one(apply):
    p = {"router": n(8, 3), "experts": n(3, 8, 4), "bias": jnp.zeros((3, 4))}
    got = {role.path.strip("[]'"): role for role in roles(apply, p, X)}
    experts = got["experts"]
    assert (experts.kind, experts.fan_in, experts.fan_out, experts.groups) == ("weight", 8, 4, 3)
    assert got["router"].kind == "weight"
    new = jinit.reinit(KEY, apply, p, X, scheme="orthogonal")["experts"]
    for expert in new:
        np.testing.assert_allclose(expert.T @ expert, jnp.eye(4), atol=1e-4)
    same = p | {"experts": jnp.broadcast_to(n(8, 4), (3, 8, 4))}
    odd = dict(jinit.audit(apply, same, X).odd)
    assert "3 matrices side by side are the same" in odd["['experts']"]


# --- rates --------------------------------------------------------------------------------------


def s5(p, u):
    a = jnp.exp(
        jax.lax.complex(jnp.clip(p["re"], None, -1e-4), p["im"])
        * jnp.exp(p["log_dt"]).astype(complex)
    )

    def step(s, u):
        s = a[None] * s + (u @ p["B"]).astype(complex)
        return s, s.real @ p["C"]

    return jax.lax.scan(step, jnp.zeros((6, 5), complex), u)[1]


def in_parallel(p, u):
    a = jnp.exp(jax.lax.complex(p["re"], p["im"]))
    a = a * jnp.exp(-jnp.exp(p["log_dt"])).astype(complex)
    b = (u @ p["B"]).astype(complex)
    both = jnp.broadcast_to(a, b.shape), b
    join = lambda l, r: (l[0] * r[0], r[0] * l[1] + r[1])  # noqa: E731, E741
    return jax.lax.associative_scan(join, both)[1].real @ p["C"]


@pytest.mark.parametrize("apply", [s5, in_parallel])
def test_eigenvalues_and_steps_are_rates_and_stay(apply):
    p = {"re": -jnp.ones(5), "im": jnp.arange(5.0), "log_dt": jnp.zeros(5), "B": n(8, 5),
         "C": n(5, 2)}  # fmt: skip
    u = jax.random.normal(KEY, (4, 6, 8))
    got = found(apply, p, u)
    assert {got[name][0] for name in ("re", "im", "log_dt")} == {"rate"}
    assert got["B"] == ("weight", 8, 5)
    new = jinit.reinit(KEY, apply, p, u)
    for name in ("re", "im", "log_dt"):
        np.testing.assert_array_equal(new[name], p[name])


def test_a_selective_states_step_and_decay_are_rates_and_an_lstms_bias_is_none():
    def mamba(p, x):
        dt = jax.nn.softplus(x @ p["dt"] + p["dt_bias"])
        decay = jnp.exp(dt[..., None] * -jnp.exp(p["A_log"]))

        def step(s, now):
            decay, dt, u = now
            s = decay * s + (dt * u)[..., None]
            return s, s.sum(-1)

        return jax.lax.scan(step, jnp.zeros((6, 8, 4)), (decay, dt, x))[1] @ p["out"]

    p = {"dt": n(8, 8), "dt_bias": jnp.ones(8), "A_log": jnp.zeros((8, 4)), "out": n(8, 3)}
    with jax.numpy_rank_promotion("allow"):
        got = found(mamba, p, jax.random.normal(KEY, (5, 6, 8)))
    assert got["A_log"][0] == got["dt_bias"][0] == "rate"
    assert got["dt"] == ("weight", 8, 8)

    def lstm(p, x):
        def step(c, x):
            z = jnp.concatenate([x, c[0]], -1) @ p["w"] + p["b"]
            i, f, g, o = jnp.split(z, 4, -1)
            s = jax.nn.sigmoid(f) * c[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(s), s), None

        return jax.lax.scan(step, (jnp.zeros((6, 4)),) * 2, x)[0][0]

    with jax.numpy_rank_promotion("allow"):
        got = found(lstm, {"w": n(12, 16), "b": jnp.zeros(16)}, jax.random.normal(KEY, (5, 6, 8)))
    assert got["b"][0] == "bias"


@pytest.mark.parametrize("spelled", ["ld,dn->ldn", "dn,ld->lnd", "ld,dn->dln"])
def test_a_product_that_sums_over_nothing_is_a_factor(spelled):
    def decays(p, x):
        a, b = (-jnp.exp(p["A"]), x) if spelled.startswith("dn") else (x, -jnp.exp(p["A"]))
        return jnp.exp(jnp.einsum(spelled, a, b))

    def states(p, x):
        out = spelled.split("->")[1]
        decay = jnp.einsum(f"{out}->ldn", decays(p, jax.nn.softplus(x @ p["dt"])))

        def step(s, now):
            decay, u = now
            s = decay * s + u[:, None]
            return s, s.sum(-1)

        return jax.lax.scan(step, jnp.zeros((8, 4)), (decay, x))[1]

    got = found(states, {"A": jnp.zeros((8, 4)), "dt": n(8, 8)}, jax.random.normal(KEY, (5, 8)))
    assert got == {"A": ("rate", None, None), "dt": ("weight", 8, 8)}


def test_a_factor_spread_over_a_signal_and_summed_is_a_weight():
    x = jax.random.normal(KEY, (5, 8))
    got = [
        found(lambda p, x: jnp.einsum(spelled, x, p["w"]).sum(axis), {"w": n(*shape)}, x)["w"]  # noqa: B023
        for spelled, axis, shape in (
            ("ld,dn->dln", 0, (8, 3)), ("ld,dn->dln", 1, (8, 3)), ("ld,d->dl", 0, (8,)),
            ("ld,d->dl", 1, (8,)), ("ld,nd->dln", 0, (3, 8)),
        )
    ]  # fmt: skip
    factor = ("scale", None, None)
    assert got == [("weight", 8, 3), factor, ("weight", 8, 1), factor, ("weight", 8, 3)]


def test_what_a_determinant_reads_of_a_weight_is_no_layer():
    def flow(p, x):
        w = p["w"].at[jnp.arange(4), jnp.arange(4)].set(jnp.exp(jnp.diag(p["w"])))
        diagonal = p["w"].reshape(2, 2, 2, 2)[jnp.arange(2), :, jnp.arange(2)]
        h = jnp.exp(-(x**2)).reshape(-1, 2, 2)
        return jnp.tanh(x @ w), jnp.log(jnp.einsum("bgi,gij->bgj", h, jnp.exp(diagonal)))

    p, x = {"w": n(4, 4)}, jax.random.normal(KEY, (5, 4))
    assert found(flow, p, x)["w"] == ("weight", 4, 4)
    seen = jinit.diagnose(flow, p, x, loss=lambda out: out[1].sum()).layers
    assert [row.fan_in for row in seen] == [4]


# --- advice -------------------------------------------------------------------------------------


def noisy(p, x):
    key = jax.random.fold_in(KEY, x.sum().astype(int))
    return x @ (p["a"] * jax.random.normal(key, (8, 8)))


def solved(p, x):
    return jnp.linalg.solve(p["a"], x.T).T


@pytest.mark.parametrize(
    ("apply", "kind"),
    [(noisy, "other"), (solved, "other"), (lambda p, x: x @ p["a"] + solved(p, x), "weight")],
    ids=["noise of the inputs", "solved", "solved and applied"],
)
def test_the_rule_that_is_offered_works(apply, kind):
    p = {"a": n(8, 8)}
    with pytest.raises(RoleError, match=rf"nothing certain .* rules=.*: '{kind}'"):
        jinit.audit(apply, p, X)
    for tool in (jinit.audit, lambda *a, **options: jinit.reinit(KEY, *a, **options)):
        tool(apply, p, X, rules={"['a']": kind})


# --- batch norm by hand -------------------------------------------------------------------------


def folded(p, h):
    inv = jax.lax.rsqrt(p["var"] + 1e-3) * p["gamma"]
    return h * inv[None] + (p["beta"] - p["mean"] * inv)[None]


def centred(p, h):
    return (h - p["mean"][None]) * (jax.lax.rsqrt(p["var"] + 1e-3) * p["gamma"])[None] + p["beta"][
        None
    ]


def divided(p, h):
    return (
        p["gamma"][None] * (h - p["mean"][None]) / jnp.sqrt(p["var"] + 1e-3)[None] + p["beta"][None]
    )


@pytest.mark.parametrize("norm", [folded, centred, divided])
def test_a_batch_norm_of_running_statistics_however_it_is_written(norm):
    names = ("gamma", "beta", "mean", "var")
    p = {"w": n(8, 8)} | dict(zip(names, map(jnp.full, [8] * 4, (2.0, 3.0, 4.0, 5.0)), strict=True))
    apply = lambda p, x: jax.nn.relu(norm(p, x @ p["w"]))  # noqa: E731
    got = found(apply, p, X)
    assert [got[name][0] for name in names] == ["scale", "bias", "statistic", "statistic"]
    new = jinit.reinit(KEY, apply, p, X)
    np.testing.assert_array_equal(new["mean"], p["mean"])
    np.testing.assert_array_equal(new["var"], p["var"])


def test_columns_that_a_mask_shuts_are_no_copies():
    mask = jnp.ones((8, 8)).at[:, 5:].set(0)
    found = jinit.audit(lambda w, x: x @ (w * mask), n(8, 8), X)
    assert not [said for _, said in found.odd if "copies" in said]
    same = n(8, 8).at[:, 1].set(n(8, 8)[:, 0])
    found = jinit.audit(lambda w, x: x @ (w * mask), same, X)
    assert "1 of 5 columns" in found.odd[0][1]
