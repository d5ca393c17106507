"""Single convolutions of every kind in every framework."""

from functools import partial

from tests.zoo.base import (
    BIAS,
    CHANNELS,
    CONVOLUTIONS,
    Built,
    entry,
    image,
    lenient,
    of_equinox,
    of_haiku,
    of_linen,
    of_nnx,
)
from tests.zoo.equinox import equinox_convolution
from tests.zoo.haiku import haiku_convolution
from tests.zoo.linen import linen_convolution
from tests.zoo.nnx import nnx_convolution
from tests.zoo.plain import jax_convolution, jax_kernel

# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def convolution(key, *, framework, kind):
    m = 17 if kind == "transposed" else CHANNELS[kind][0]
    x = image(key, m, channels_last=framework != "equinox")
    if framework == "linen":
        return of_linen(linen_convolution(kind), key, x)
    if framework == "nnx":
        return of_nnx(partial(nnx_convolution, kind=kind), key, x)
    if framework == "equinox":
        return of_equinox(equinox_convolution(key, kind), x)
    if framework == "haiku":
        return of_haiku(lambda x: haiku_convolution(kind)(x), key, x)
    return Built(lenient(partial(jax_convolution, kind=kind)), jax_kernel(key, kind), (x,))


HAIKU_LAYERS = {"transposed": "conv2_d_transpose", "depthwise": "depthwise_conv2_d"}


for _kind, _what in CONVOLUTIONS.items():
    _module = HAIKU_LAYERS.get(_kind, "conv2_d")
    for _framework, _names in {
        "linen": ("kernel", "bias"),
        "nnx": ("kernel", "bias"),
        "equinox": (".weight", ".bias"),
        "haiku": (f"{_module}/w", f"{_module}/b"),
        "jax": ("w", "b"),
    }.items():
        _expected = {_names[0]: _what, _names[1]: BIAS}
        _build = partial(convolution, framework=_framework, kind=_kind)
        entry(_framework, _kind, _expected)(_build)
