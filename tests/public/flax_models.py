"""Models of packages that are written in Flax (Linen and NNX), Haiku and Keras."""

import importlib

import jax
import jax.numpy as jnp
from flax import nnx

import jinit
from tests.public.base import (
    BIAS,
    EMBEDDING,
    EVERY,
    RATE,
    SCALE,
    STATISTIC,
    entry,
    normal,
    tokens,
    weight,
)


def dense(name, leaf="kernel"):
    return f"['params']{''.join(f'[{part!r}]' for part in name.split('/'))}[{leaf!r}]"


# --- jaxkan: Kolmogorov-Arnold networks, 3 -> 7 -> 5 -> 2 ---


def kan(kind, **options):
    def build(key):
        own = importlib.import_module("jaxkan.models.KAN").KAN
        model = own([3, 7, 5, 2], layer_type=kind, required_parameters=options, seed=1)
        return jinit.Model(model, normal(key, 16, 3))

    return build


def of_kan(leaf, functions):
    """Every output sums so many functions of every input."""
    return {
        f".layers[{i}].{leaf}.value": weight(m * functions, n)
        for i, (m, n) in enumerate([(3, 7), (7, 5), (5, 2)])
    }


for kind, leaf, options, functions, fault in (
    ("spline", "c_basis", {"k": 3, "G": 3}, 6, ("off", ".layers[1].bias.value")),
    ("chebyshev", "c_basis", {"D": 4}, 4, ("zero", ".layers[1].c_basis.value")),
    ("legendre", "c_basis", {"D": 4}, 4, ("same", ".layers[1].c_basis.value")),
    ("fourier", "c_cos", {"D": 4}, 4, ("small", ".layers[1].c_cos.value")),
    ("rbf", "c_basis", {"D": 4}, 4, ("zero", ".layers[0].c_basis.value")),
):
    entry(
        "jaxkan",
        f"KAN, {kind}",
        of_kan(leaf, functions) | {".layers[1].bias.value": BIAS},
        planted=fault,
    )(kan(kind, **options))
entry(
    "jaxkan",
    "KAN, sines",
    of_kan("c_basis", 4) | {".layers[0].omega.value": SCALE, ".layers[0].phase.value": BIAS},
    planted=("small", ".layers[1].c_basis.value"),
)(kan("sine", D=4))
# A product for each of 21 edges sums the 6 functions, and then the edges are added.
entry(
    "jaxkan",
    "KAN, one product per edge",
    {".layers[0].c_basis.value": weight(6, 1, groups=21), ".layers[0].bias.value": BIAS},
    planted=("off", ".layers[1].bias.value"),
)(kan("base", k=3, G=3))


@entry(
    "jaxkan",
    "ActNet",
    {
        ".layers[0].beta.value": weight(4, 7),
        ".layers[1].Lambda.value": weight(7, 1, groups=7),
        ".layers[0].omega.value": SCALE,
        ".layers[0].phase.value": BIAS,
    },
    planted=("zero", ".layers[1].beta.value"),
    says=("copies",),
    why="two layers hold the same numbers: the package draws both from its default seed",
)
def actnet(key):
    own = importlib.import_module("jaxkan.models.ActNet").ActNet
    return jinit.Model(own([3, 7, 7, 2]), normal(key, 16, 3))


# --- language models ---


def mamba_is(mixer, width):
    return {
        ".backbone.embedder.embedding.value": weight(16, 29)._replace(role="tied"),
        f"{mixer}.in_proj.kernel.value": weight(16, width),
        f"{mixer}.out_proj.kernel.value": weight(32, 16),
        f"{mixer}.dt_bias.value": RATE,
        f"{mixer}.D.value": SCALE,
        ".backbone.final_norm.weight.value": SCALE,
    }


def of_mamba(number):
    def build(key):
        own = importlib.import_module(f"mamba{number}_jax")
        config = getattr(own, f"Mamba{number}Config")(
            vocab_size=29,
            hidden_size=16,
            state_size=8,
            head_dim=8,
            chunk_size=4,
            num_hidden_layers=2,
        )
        model = getattr(own, f"Mamba{number}ForCausalLM")(config, rngs=nnx.Rngs(key))
        return jinit.Model(lambda model, x: model(x)["logits"], model, tokens(key, 2, 8))

    return build


FIRST = ".backbone.layers[0].mixer"
entry(
    "mamba2-jax",
    "language model",
    mamba_is(FIRST, 84) | {f"{FIRST}.A_log.value": RATE},
    planted=("small", f"{FIRST}.in_proj.kernel.value"),
    why="its convolution is a sum of shifted products, and is read as factors",
)(of_mamba(2))
entry(
    "mamba3-jax", "language model", mamba_is(FIRST, 94), planted=("nan", f"{FIRST}.dt_bias.value")
)(of_mamba(3))


EXPERT = "block_0/MoELayer_0/expert_0"


@entry(
    "nano-moe-jax",
    "mixture of experts",
    {
        dense("Embed_0", "embedding"): EMBEDDING,
        dense("Dense_0"): weight(16, 29),
        dense(f"{EXPERT}/Dense_0"): weight(16, 24),
        dense(f"{EXPERT}/Dense_1"): weight(24, 16),
        dense("block_0/MoELayer_0/Router_0/Dense_0"): weight(16, 3),
        dense("block_0/MultiHeadAttention_0/Dense_0"): weight(16, 48),
    },
    planted=("same", dense(f"{EXPERT}/Dense_0")),
    why="the head is drawn with std 0.02, far below Flax's default, which diagnose remarks",
)
def experts(key):
    config = importlib.import_module("nano_moe.config").NanoMoEConfig(
        vocab_size=29, n_layers=2, n_heads=2, d_model=16, d_ff=24, n_experts=3, block_size=8
    )
    model = importlib.import_module("nano_moe.model").NanoMoE(config)
    x = tokens(key, 2, 8)
    return jinit.Model(lambda v, x: model.apply(v, x)[0], model.init(key, x), x)


# --- netket: wave functions of 8 spins ---


def spins(make, *sizes, signs=False):
    def build(key):
        own = importlib.import_module("netket")
        model = make(own)
        x = normal(key, 6, *(sizes or (8,)))
        x = jnp.sign(x) if signs else x
        return jinit.Model(lambda v, x: jnp.real(model.apply(v, x)), model.init(key, x), x)

    return build


SMALL = "NetKet draws all of a Boltzmann machine with std 0.01, which audit says"
for label, dtype in (("Boltzmann machine", "float32"), ("complex Boltzmann machine", "complex64")):
    entry(
        "netket",
        label,
        {
            dense("Dense"): weight(8, 16),
            dense("Dense", "bias"): BIAS,
            "['params']['visible_bias']": weight(8, 1),  # a dot product with the spins
        },
        planted=("same", dense("Dense")),
        why=SMALL,
    )(spins(lambda nk, dtype=dtype: nk.models.RBM(alpha=2, param_dtype=getattr(jnp, dtype))))
entry(
    "netket",
    "symmetric Boltzmann machine",
    {dense("Dense"): weight(8, 2 * 8)},
    planted=("small", dense("Dense")),
)(
    spins(
        lambda nk: nk.models.RBMSymm(
            symmetries=nk.graph.Chain(8).translation_group(), alpha=2, param_dtype=jnp.float32
        )
    )
)
entry(
    "netket",
    "MLP",
    {
        dense("MLP_0/Dense_0"): weight(8, 11),
        dense("MLP_0/Dense_1"): weight(11, 13),
        dense("MLP_0/Dense_2"): weight(13, 1),
    },
    planted=("large", EVERY),
)(spins(lambda nk: nk.models.MLP(hidden_dims=(11, 13), param_dtype=jnp.float32)))
entry(
    "netket",
    "autoregressive network",
    {dense("_layers_1"): weight(40, 40), dense("_layers_2"): weight(40, 16)},
    planted=("zero", dense("_layers_1")),
)(
    spins(
        lambda nk: nk.models.ARNNDense(
            nk.hilbert.Spin(0.5, 8), layers=3, features=5, param_dtype=jnp.float32
        ),
        signs=True,
    )
)
entry(
    "netket",
    "deep set",
    {
        dense("DeepSetMLP_0/ds_phi/Dense_0"): weight(3, 11),
        dense("DeepSetMLP_0/ds_rho/Dense_0"): weight(11, 13),
    },
    planted=("off", dense("DeepSetMLP_0/ds_phi/Dense_0", "bias")),
)(
    spins(
        lambda nk: nk.models.DeepSetMLP(
            features_phi=(11,), features_rho=(13,), param_dtype=jnp.float32
        ),
        8,
        3,
    )
)

# In the frequencies of 8 translations a product for each, of two reflections of every channel.
entry(
    "netket",
    "group convolutions",
    {
        dense("dense_symm"): weight(1, 3 * 2, groups=8),
        dense("equivariant_layers_0"): weight(3 * 2, 5 * 2, groups=8),
        dense("equivariant_layers_1"): weight(5 * 2, 4 * 2, groups=8),
        dense("equivariant_layers_1", "bias"): BIAS,
    },
    planted=("small", dense("equivariant_layers_0")),
)(
    spins(
        lambda nk: nk.models.GCNN(
            symmetries=nk.graph.Chain(8),
            layers=3,
            features=(3, 5, 4),
            mode="fft",
            param_dtype=jnp.float32,
        ),
        signs=True,
    )
)

# --- graphs, control, transport ---


def graph(name, **options):
    def build(key):
        own = getattr(importlib.import_module("jraphx.nn.models"), name)
        model = own(5, 11, 3, out_features=7, rngs=nnx.Rngs(key), **options)
        edges = jax.random.randint(jax.random.fold_in(key, 2), (2, 40), 0, 16)
        return jinit.Model(lambda m, x: m(x, edges), model, normal(key, 16, 5))

    return build


def of_graph(leaf):
    return {
        f".convs[{i}].{leaf}.kernel.value": weight(m, n)
        for i, (m, n) in enumerate([(5, 11), (11, 11), (11, 7)])
    }


for name, leaf, fault in (
    ("GCN", "linear", ("zero", ".convs[1].linear.kernel.value")),
    ("GraphSAGE", "lin_r", ("off", ".convs[1].lin_r.bias.value")),
    ("GAT", "lin", ("small", ".convs[1].lin.kernel.value")),
):
    entry("jraphx", name, of_graph(leaf), planted=fault)(graph(name))
entry(
    "jraphx",
    "GIN",
    of_graph("nn.lins[0]")
    | {".convs[2].nn.lins[1].kernel.value": weight(7, 7), ".convs[0].nn.lins[0].bias.value": BIAS},
    planted=("large", EVERY),
)(graph("GIN"))


@entry(
    "brax",
    "policy of PPO",
    {
        dense("hidden_0"): weight(5, 31),
        dense("hidden_1"): weight(31, 31),
        dense("hidden_1", "bias"): BIAS,
    },
    planted=("off", dense("hidden_1", "bias")),
)
def policy(key):
    own = importlib.import_module("brax.training.networks")
    net = own.make_policy_network(6, 5, hidden_layer_sizes=(31, 31, 31))
    return jinit.Model(lambda v, x: net.apply(None, v, x), net.init(key), normal(key, 16, 5))


@entry(
    "ott-jax",
    "input-convex network",
    {
        dense("w_xs_0", "lin_kernel"): weight(5, 11),
        dense("w_zs_0"): weight(11, 13),
        dense("w_zs_1"): weight(13, 1),
        dense("w_xs_0", "bias"): BIAS,
    },
    planted=("nan", dense("w_zs_0")),
    says=("symmetric",),
    why="the diagonal parts are drawn all 1, beside others that are random: true and harmless",
)
def convex(key):
    own = importlib.import_module("ott.neural.networks.icnn").ICNN
    model = own(dim_data=5, dim_hidden=[11, 13])
    x = normal(key, 16, 5)
    apply = lambda v, x: jax.vmap(lambda one: model.apply(v, one))(x)  # noqa: E731
    return jinit.Model(apply, model.init(key, x[0]), x)


@entry(
    "ott-jax",
    "MLP potential",
    {
        dense("Dense_0"): weight(5, 11),
        dense("Dense_1"): weight(11, 13),
        dense("Dense_2"): weight(13, 1),
    },
    planted=("zero", dense("Dense_0")),
)
def potential(key):
    own = importlib.import_module("ott.neural.networks.potentials").PotentialMLP
    model, x = own(dim_hidden=[11, 13]), normal(key, 16, 5)
    return jinit.Model(model.apply, model.init(key, x), x)


# --- Haiku and Keras ---


def haiku(make, *shape, **options):
    def build(key):
        hk = importlib.import_module("haiku")
        run = hk.without_apply_rng(hk.transform_with_state(lambda x: make(hk)(x, **options)))
        x = normal(key, *shape)
        params, state = run.init(key, x)
        return jinit.Model(lambda v, x: run.apply(*v, x)[0], (params, state), x)

    return build


LINEAR = "[0]['mlp/~/linear_{}']['w']"
entry(
    "dm-haiku",
    "MLP",
    {
        LINEAR.format(0): weight(5, 11),
        LINEAR.format(1): weight(11, 13),
        LINEAR.format(2): weight(13, 3),
    },
    planted=("large", EVERY),
)(haiku(lambda hk: hk.nets.MLP([11, 13, 3]), 16, 5))


def keras(make, *shape):
    def build(key):
        own = importlib.import_module("keras")
        own.utils.set_random_seed(1)
        model = make(own)
        model.build((None, *shape[1:]))
        train = [v.value for v in model.trainable_variables]
        still = [v.value for v in model.non_trainable_variables]
        apply = lambda v, x: model.stateless_call(*v, x)[0]  # noqa: E731
        return jinit.Model(apply, (train, still), normal(key, *shape))

    return build


entry(
    "keras",
    "CNN",
    {
        "[0][0]": weight(27, 11 * 9, receptive_field=9),
        "[0][1]": BIAS,
        "[0][2]": weight(99, 13 * 9, receptive_field=9),
        "[0][4]": weight(325, 7),
    },
    planted=("same", "[0][2]"),
)(
    keras(
        lambda k: k.Sequential(
            [
                k.layers.Conv2D(11, 3, activation="relu"),
                k.layers.Conv2D(13, 3, activation="relu"),
                k.layers.Flatten(),
                k.layers.Dense(7),
            ]
        ),
        4,
        9,
        9,
        3,
    )
)
entry(
    "keras",
    "LSTM",
    {
        "[0][0]": weight(5, 4 * 7),
        "[0][1]": weight(7, 4 * 7),
        "[0][2]": BIAS,
        "[0][3]": weight(7, 3),
    },
    planted=("small", "[0][1]"),
)(keras(lambda k: k.Sequential([k.layers.LSTM(7), k.layers.Dense(3)]), 4, 6, 5))
entry(
    "keras",
    "CNN with batch norm",
    {
        "[0][0]": weight(27, 11 * 9, receptive_field=9),
        "[0][1]": SCALE,
        "[0][2]": BIAS,
        "[0][3]": weight(99, 13 * 9, receptive_field=9),
        "[1][0]": STATISTIC,
        "[1][3]": STATISTIC,
    },
    planted=("small", "[0][3]"),
)(
    keras(
        lambda k: k.Sequential(
            [
                k.layers.Conv2D(11, 3, use_bias=False),
                k.layers.BatchNormalization(),
                k.layers.ReLU(),
                k.layers.Conv2D(13, 3),
                k.layers.BatchNormalization(),
                k.layers.ReLU(),
                k.layers.Flatten(),
                k.layers.Dense(7),
            ]
        ),
        4,
        9,
        9,
        3,
    )
)
