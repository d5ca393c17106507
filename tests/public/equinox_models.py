"""Models of packages that are written in Equinox."""

import importlib

import equinox as eqx
import jax

import jinit
from tests.public.base import BIAS, EMBEDDING, RATE, SCALE, UNUSED, entry, normal, tokens, weight

# --- pdequinox: surrogates of partial differential equations, 2 channels in, 3 out ---


def surrogate(name, dims=1, size=32, **options):
    def build(key):
        arch = importlib.import_module("pdequinox.arch")
        model = getattr(arch, name)(dims, 2, 3, key=key, **options)
        return jinit.Model(model, normal(key, 4, 2, *(size,) * dims), in_axes=0)

    return build


FNO = {
    ".lifting.weight": weight(2, 11),
    ".lifting.bias": BIAS,
    # For each of 5 frequencies a complex matrix of 11 channels.
    ".blocks[1].spectral_conv.weights_real": weight(11, 11, groups=5),
    ".blocks[1].spectral_conv.weights_imag": weight(11, 11, groups=5),
    ".projection.weight": weight(11, 3),
}
entry(
    "pdequinox", "Fourier neural operator", FNO, planted=("small", ".blocks[1].by_pass_conv.weight")
)(surrogate("ClassicFNO", hidden_channels=11, num_modes=5, num_blocks=3))

UNET = {
    ".lifting.conv_1.weight": weight(2 * 9, 8 * 9, receptive_field=9),
    ".projection.weight": weight(8, 3),
}
entry("pdequinox", "U-Net", UNET, planted=("zero", ".up_sampling_blocks[0].weight"))(
    surrogate("ClassicUNet", 2, 16, hidden_channels=8, num_levels=2)
)
entry(
    "pdequinox",
    "U-Net of residual blocks",
    {".projection.weight": weight(8, 3)},
    planted=("small", ".down_sampling_blocks[0].weight"),
    says=("copies",),
    why="five convolutions hold the same numbers: the package draws them from one key",
)(surrogate("ModernUNet", 2, 16, hidden_channels=8, num_levels=2))
entry(
    "pdequinox",
    "dilated ResNet",
    {".projection.weight": weight(9, 3)},
    planted=("same", ".projection.weight"),
)(surrogate("DilatedResNet", hidden_channels=9))
entry(
    "pdequinox",
    "ConvNet",
    {
        ".layers[0].weight": weight(2 * 3, 9 * 3, receptive_field=3),
        ".layers[3].weight": weight(9 * 3, 9 * 3, receptive_field=3),
        ".layers[6].weight": weight(9 * 3, 3 * 3, receptive_field=3),
        ".layers[6].bias": BIAS,
    },
    planted=("off", ".layers[1].bias"),
    says=("vanish",),
    why="PyTorch's default draw has a gain of 0.58, and a ReLU keeps the signal at 1.41",
)(surrogate("ConvNet", hidden_channels=9, depth=6))
entry(
    "pdequinox",
    "MLP",
    {
        ".flat_mlp.layers[0].weight": weight(16, 31),
        ".flat_mlp.layers[2].weight": weight(31, 31),
        ".flat_mlp.layers[3].weight": weight(31, 24),
        ".flat_mlp.layers[1].bias": BIAS,
    },
    planted=("off", ".flat_mlp.layers[1].bias"),
)(surrogate("MLP", size=8, num_points=8, width_size=31))

# --- equimo: vision, at inference ---


def seen(module, name, size=32, **options):
    def build(key):
        own = getattr(importlib.import_module(f"equimo.vision.models.{module}"), name)
        model = eqx.nn.inference_mode(own(key=key, num_classes=7, in_channels=3, **options))

        def apply(model, images):
            return jax.vmap(lambda one: model(one, key=key))(images)

        return jinit.Model(apply, model, normal(key, 2, 3, size, size))

    return build


LATE = (
    "residual branches end in weights about 15 times smaller than by any convention, "
    "which audit says"
)
BLOCK = ".blocks[0].blocks[0]"
entry(
    "equimo",
    "ViT",
    {
        ".patch_embed.proj.weight": weight(3 * 16, 24 * 16, receptive_field=16),
        ".cls_token": EMBEDDING,
        ".reg_tokens": EMBEDDING,
        f"{BLOCK}.attn.qkv.weight": weight(24, 3 * 24),
        f"{BLOCK}.attn.proj.weight": weight(24, 24),
        f"{BLOCK}.mlp.fc1.weight": weight(24, 96),
        f"{BLOCK}.mlp.fc2.weight": weight(96, 24),
        ".head.weight": weight(24, 7),
    },
    planted=("small", f"{BLOCK}.mlp.fc1.weight"),
    why=LATE,
)(seen("vit", "VisionTransformer", 16, img_size=16, dim=24, patch_size=4, num_heads=3, depths=[3]))
entry(
    "equimo",
    "ConvNeXt",
    {
        f"{BLOCK}.dwconv.weight": weight(49, 49, receptive_field=49, groups=8),
        f"{BLOCK}.pwconv1.weight": weight(8, 32),
        f"{BLOCK}.pwconv2.weight": weight(32, 8),
        ".head.weight": weight(24, 7),
    },
    planted=("zero", f"{BLOCK}.pwconv1.weight"),
)(seen("convnext", "ConvNeXt", depths=[1, 2, 1], dims=[8, 16, 24]))
entry(
    "equimo",
    "MLLA",
    {
        f"{BLOCK}.cpe1.weight": weight(9, 9, receptive_field=9, groups=12),
        f"{BLOCK}.act_proj.weight": weight(12, 12),
        f"{BLOCK}.attn.qk.weight": UNUSED,
        ".head.weight": weight(24, 7),
    },
    planted=("small", f"{BLOCK}.act_proj.weight"),
    why=LATE,
    unused="the package makes an input projection and an attention whose outcome it drops",
)(seen("mlla", "Mlla", img_size=32, dim=12, patch_size=4, depths=[1, 1], num_heads=[2, 4]))
entry(
    "equimo",
    "VSSD",
    {
        f"{BLOCK}.attn.in_proj.weight": weight(16, 322),
        f"{BLOCK}.attn.conv.weight": weight(4, 4, receptive_field=4, groups=288),
        ".blocks[1].blocks[0].attn.qkv.weight": weight(32, 96),
        ".head.weight": weight(32, 7),
    },
    planted=("same", f"{BLOCK}.attn.in_proj.weight"),
    why=LATE,
)(
    seen(
        "vssd",
        "Vssd",
        img_size=32,
        dim=16,
        patch_size=4,
        depths=[1, 1],
        num_heads=[2, 4],
        attentions_layers=("mamba2mixer", "attention"),
    )
)

# --- linax: state-space models, 3 -> 8, two blocks ---


def state_space(config):
    def build(key):
        models = importlib.import_module("linax.models")
        into = importlib.import_module("linax.encoder.linear").LinearEncoderConfig
        head = importlib.import_module("linax.heads.classification").ClassificationHeadConfig
        made = getattr(models, config)(
            encoder_config=into(in_features=3, out_features=8),
            head_config=head(out_features=5),
            num_blocks=2,
        )
        model, state = eqx.nn.make_with_state(models.SSM)(made, key)

        def apply(model, x):
            return jax.vmap(lambda one: model(one, state, key)[0], axis_name="batch")(x)

        return jinit.Model(apply, eqx.nn.inference_mode(model), normal(key, 4, 9, 3))

    return build


MIXER, GATE = ".blocks[0].sequence_mixer", ".blocks[0].channel_mixer"
WIDE = "as measured; why the package's draw makes the gate's sigmoid flat was not looked into"
OUTER = {
    ".encoder.linear.weight": weight(3, 8),
    ".head.linear.weight": weight(8, 5),
    f"{MIXER}.D": SCALE,
}
entry(
    "linax",
    "LRU",
    OUTER
    | {
        f"{MIXER}.nu_log": RATE,
        f"{MIXER}.theta_log": RATE,
        f"{MIXER}.B_re": weight(8, 64),
        f"{MIXER}.C_im": weight(64, 8),
        f"{GATE}.w1.weight": weight(8, 8),
    },
    planted=("nan", f"{MIXER}.nu_log"),
    says=("dead", "saturated", "explode"),
    why=WIDE,
)(state_space("LRUConfig"))
entry(
    "linax",
    "LinOSS",
    OUTER
    | {
        f"{MIXER}.A_diag": RATE,
        f"{MIXER}.steps": RATE,
        f"{MIXER}.B": weight(8, 64),
        f"{MIXER}.C": weight(64, 8),
    },
    planted=("small", f"{MIXER}.C"),
    says=("dead", "saturated", "explode"),
    why=WIDE,
)(state_space("LinOSSConfig"))
entry(
    "linax",
    "S5",
    OUTER
    | {
        f"{MIXER}.Lambda_re": RATE,
        f"{MIXER}.log_step": RATE,
        f"{MIXER}.B": weight(8, 32),
        f"{MIXER}.C": weight(32, 8),
    },
    planted=("same", f"{MIXER}.C"),
    says=("saturated", "explode"),
    why=WIDE,
)(state_space("S5Config"))

# --- others ---


@entry(
    "megalodon-jax",
    "language model",
    {
        ".model.embed.weight": EMBEDDING,
        ".lm_head.weight": weight(16, 29),
        ".model.layers[0].attn.cema.alpha": RATE,
        ".model.layers[0].attn.cema.theta": RATE,
        ".model.layers[0].attn.wv.weight": weight(16, 24),
        ".model.layers[0].attn.wh2.weight": weight(24, 16),
        ".model.layers[1].ffn.fc1.weight": weight(16, 40),
        ".model.layers[1].ffn.norm.weight": SCALE,
    },
    planted=("zero", ".model.layers[0].attn.wv.weight"),
)
def megalodon(key):
    own = importlib.import_module("megalodon_jax")
    config = own.MegalodonConfig(
        vocab_size=29,
        model_dim=16,
        num_layers=2,
        num_heads=2,
        z_dim=8,
        value_dim=24,
        ffn_hidden_dim=40,
        cema_ndim=4,
        chunk_size=8,
        norm_num_groups=4,
    )
    model = own.MegalodonForCausalLM(config, key=key)
    return jinit.Model(lambda model, x: model(x)[0], model, tokens(key, 2, 8))


SELECTIVE = ".layers.layers[0].mamba_block"


@entry(
    "jaxonmodels",
    "Mamba",
    {
        f"{SELECTIVE}.in_proj.weight": weight(16, 64),
        f"{SELECTIVE}.conv1d.weight": weight(4, 4, receptive_field=4, groups=32),
        f"{SELECTIVE}.ssm.input_proj.weight": weight(32, 68),
        f"{SELECTIVE}.ssm.delta_proj.weight": weight(4, 32),
        f"{SELECTIVE}.ssm.A_log": RATE,
        f"{SELECTIVE}.ssm.D": SCALE,
        f"{SELECTIVE}.out_proj.weight": weight(32, 16),
    },
    planted=("small", f"{SELECTIVE}.in_proj.weight"),
)
def mamba(key):
    own = importlib.import_module("jaxonmodels.models.mamba").Mamba
    model = own(16, 29, 2, d_state=32, dt_rank=4, key=key)
    return jinit.Model(
        lambda m, x: jax.vmap(lambda one: m(one, key=key))(x), model, tokens(key, 2, 8)
    )


@entry(
    "jaxonmodels",
    "ViT of CLIP",
    {
        ".conv1.weight": weight(48, 24 * 16, receptive_field=16),
        ".class_embedding": EMBEDDING,
        ".transformer.resblocks[0].attn.in_proj_weight": weight(24, 72),
        ".transformer.resblocks[1].c_proj.weight": weight(96, 24),
        ".ln_post.weight": SCALE,
        ".proj": weight(24, 7),
    },
    planted=("same", ".transformer.resblocks[1].c_proj.weight"),
    why="queries and keys are drawn 40 times smaller than by any convention, which audit says",
)
def clip(key):
    own = importlib.import_module("jaxonmodels.models.vit").VisionTransformer
    model = own(16, 4, 24, 2, 3, 7, key=key)
    return jinit.Model(lambda m, x: jax.vmap(m)(x)[0], model, normal(key, 2, 3, 16, 16))


def flow(name, **options):
    def build(key):
        flows = importlib.import_module("flowjax.flows")
        base = importlib.import_module("flowjax.distributions").Normal(jax.numpy.zeros(4))
        model = getattr(flows, name)(key, base_dist=base, flow_layers=2, **options)
        return jinit.Model(lambda m, x: m.log_prob(x), model, normal(key, 16, 4))

    return build


PARTS = ".bijection.bijection.bijection.bijections[0]"
BASE = {".base_dist.bijection.loc": BIAS, ".base_dist.bijection.scale.args[0]": SCALE}
entry(
    "flowjax",
    "coupling flow",
    BASE
    | {
        f"{PARTS}.conditioner.layers[0].weight": weight(2, 11),
        f"{PARTS}.conditioner.layers[1].weight": weight(11, 11),
    },
    planted=("off", f"{PARTS}.conditioner.layers[1].bias"),
)(flow("coupling_flow", nn_width=11, nn_depth=2))
MASKED = f"{PARTS}.masked_autoregressive_mlp.layers"
entry(
    "flowjax",
    "masked autoregressive flow",
    BASE
    | {f"{MASKED}[0].weight.args[1]": weight(4, 11), f"{MASKED}[1].weight.args[1]": weight(11, 11)},
    planted=("zero", f"{MASKED}[1].weight.args[1]"),
)(flow("masked_autoregressive_flow", nn_width=11, nn_depth=2))
BLOCKS = f"{PARTS}.bijection.layers"
entry(
    "flowjax",
    "block neural autoregressive flow",
    BASE
    | {
        f"{BLOCKS}[0][0].weight.weight.args[0]": weight(4, 12),
        f"{BLOCKS}[1][0].weight.weight.args[0]": weight(12, 12),
        f"{BLOCKS}[1][0].weight.scale.args[0]": SCALE,
        f"{BLOCKS}[1][0].bias": BIAS,
    },
    planted=("nan", f"{BLOCKS}[1][0].weight.weight.args[0]"),
    says=("output",),
    why="its output is a logarithm of a density, which need not start near 1",
)(flow("block_neural_autoregressive_flow", nn_block_dim=3, nn_depth=2))
