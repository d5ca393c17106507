"""The verdicts of experiments can fail: theory's own numbers pass, planted errors miss.

Checks are pure functions of a dataset. Here datasets of the full setting's shape are made from
theory, but for noise and what the width does; so the number of checks is seen too, and an error is
planted in what was measured or in what theory says. Nothing is simulated but for pennington2017.
"""

import inspect
import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from harness.checks import verdict

import jinit


def missed(checks):
    names = [check.what for check in checks if not check.ok]
    assert verdict(checks) == (1 if names else 0)
    return names


def full(script):
    """The setting that is not the small one."""
    arguments = inspect.signature(script.measure).parameters.values()
    return {argument.name: argument.default for argument in arguments}


def same_tolerances(checks, others):
    # What is allowed knows nothing of the theory that is compared.
    return [c.tolerance for c in checks] == pytest.approx([c.tolerance for c in others], rel=1e-6)


def replaced(monkeypatch, name, **wrong):
    """A function of jinit.theory that gives some other fields."""
    exact = getattr(jinit.theory, name)

    def call(*args, **options):
        found = exact(*args, **options)
        return found._replace(**{k: v(found) for k, v in wrong.items()})

    monkeypatch.setattr(jinit.theory, name, call)


# --- audit_frameworks -------------------------------------------------------------------------


@pytest.fixture
def audit(load):
    return load("audit_frameworks")


def followed(script, *, output_error=1e-7):
    """Networks that are as predicted, but for noise."""
    noise = 0.01 * np.random.default_rng(0).normal(size=(16, script.DEPTH))
    parts = []
    for name, rule in script.RULES.items():
        expected = script.predict(rule)
        width = 0 if rule.bias_var else script.of_width()["signal"]
        signal = expected["signal"] + width + noise
        gradient = expected["gradient"] + script.of_width()["gradient"] + noise
        parts.append(xr.Dataset({
            "signal": (("seed", "layer"), signal), "gradient": (("seed", "layer"), gradient),
            "output_error": ("seed", np.full(16, output_error)),
        }, {"framework": name}))  # fmt: skip
    return xr.concat(parts, "framework")


def audits(script, *, weight=1.0, embedding=1.0, convention=None):
    rows = []
    for name, rule in script.RULES.items():
        for model, roles in script.LAYERS.items():
            for role, layers in roles.items():
                std = {"embedding": embedding * rule.embedding_std, "scale": 0.0}.get(
                    role, weight * rule.gain / 8
                )
                row = dict.fromkeys(script.COLUMNS, 0.0) | {
                    "model": model, "of": name, "role": role, "size": 6400, "fan_in": 64.0,
                    "std": std, "matches": convention or rule.convention,
                }  # fmt: skip
                rows += [row | {"name": layer} for layer in layers]
    return pd.DataFrame(rows).rename_axis("parameter").to_xarray()


def test_audit_frameworks_says_which_extra_it_needs(audit, monkeypatch, capsys):
    from harness import experiment

    monkeypatch.setattr(experiment.importlib.util, "find_spec", lambda name: None)
    assert audit.EXPERIMENT.main([]) == 2
    assert capsys.readouterr().err == (
        "audit_frameworks needs flax, equinox, haiku: install the extra with "
        "pip install 'jinit[models]'.\n"
    )


def test_audit_frameworks_has_its_checks(audit):
    assert len(audit.EXPERIMENT.checks(xr.merge([audits(audit), followed(audit)]))) == 48


def test_audit_frameworks_wrong_gains_miss_after_thirty_layers(audit, monkeypatch):
    measured, rules = followed(audit), audit.RULES
    right = audit.compare_signals(measured)
    assert missed(right) == []
    for factor in (1.02, 0.98):
        wrong = {name: r._replace(gain=factor * r.gain) for name, r in rules.items()}
        monkeypatch.setattr(audit, "RULES", wrong)
        checks = audit.compare_signals(measured)
        # Biases hold the signal of Equinox, whatever the gain.
        assert missed(checks) == [
            what
            for rule in wrong.values()
            for what in (["gradient"] if rule.bias_var else ["signal", "gradient"])
        ]
        assert same_tolerances(checks, right)
    # As if Haiku corrected for the cut, and as if Equinox had no biases.
    others = {
        "Haiku": rules["Haiku"]._replace(gain=1.0),
        "Equinox": rules["Equinox"]._replace(bias_var=0.0),
    }
    monkeypatch.setattr(audit, "RULES", rules | others)
    checks = audit.compare_signals(measured)
    assert {c.group.split(":")[0] for c in checks if not c.ok} == {"Haiku", "Equinox"}


def test_audit_frameworks_layers_of_another_model_miss(audit):
    measured = followed(audit, output_error=1e-3).sel(framework=["Equinox"])
    assert missed(audit.compare_signals(measured)) == ["Equinox"]


def test_audit_frameworks_wrong_defaults_miss(audit):
    def groups(checks):
        missed(checks)
        return {check.group.split(",")[0] for check in checks if not check.ok}

    right = audit.compare_audits(audits(audit))
    assert missed(right) == []
    assert len(right) == (2 * len(audit.LAYERS) + 1) * len(audit.RULES)
    heavy = audit.compare_audits(audits(audit, weight=1.1))
    assert groups(heavy) == {"gain of the weights"}
    assert len(missed(heavy)) == len(audit.LAYERS) * len(audit.RULES)
    assert same_tolerances(heavy, right)
    wide = audit.compare_audits(audits(audit, embedding=1.1))
    assert groups(wide) == {"std of the embedding"}
    other = audit.compare_audits(audits(audit, convention="keras"))
    assert groups(other) == {"share of weights that are their convention's"}


# --- cs231n2016 and deeplearning.ai -----------------------------------------------------------


def test_cs231n_a_wrong_digit_misses(load, monkeypatch):
    script = load("cs231n_activations")
    predicted = [script.predict(setting) for setting in script.SETTINGS.values()]
    seeds = np.array([0.999, 1.001])[None, :, None]
    data = xr.Dataset(
        {
            quantity: (
                ("setting", "seed", "layer"),
                seeds * np.stack([each[quantity] for each in predicted])[:, None],
            )
            for quantity in ("mean", "std")
        },
        {"setting": list(script.SETTINGS), "layer": script.LAYERS},
    )
    right = script.checks(data)
    assert missed(right) == []
    assert len(right) == 80
    he = script.SETTINGS["ReLU, He"]
    wrong = he.published | {"std": he.published["std"].replace("0.8", "0.7", 1)}
    monkeypatch.setitem(script.SETTINGS, "ReLU, He", he._replace(published=wrong))
    assert missed(script.checks(data)) == ["layer 1", "layer 1"]
    assert len(missed(script.checks(data * 1.01))) > 30


def test_deeplearning_ai_a_wrong_accuracy_or_cost_misses(load):
    script = load("deeplearning_ai_initialization")
    he = np.repeat(script.HE_COSTS, 1000)

    def data(accuracy=script.ACCURACY, he=he, steps=script.STEPS):
        costs = {"zeros": np.full(len(he), math.log(2)), "times 10": he, "He": he}
        return xr.Dataset(
            {"cost": (("weights", "step"), [costs[name][:steps] for name in script.FACTORS]),
             "accuracy": (("weights", "half"), [accuracy[name] for name in script.FACTORS])},
            {"weights": list(script.FACTORS), "half": script.HALVES, "step": range(steps)},
        )  # fmt: skip

    assert missed(script.checks(data())) == []
    assert len(script.checks(data())) == 22
    assert len(script.checks(data(steps=2000))) == 5
    one_sample_more = script.ACCURACY | {"He": (299 / 300, 0.97)}
    assert missed(script.checks(data(one_sample_more))) == script.HALVES
    wrong = missed(script.checks(data(he=he * (1 + 1e-8))))
    assert len(wrong) == len(script.HE_COSTS)


# --- hanin2018 --------------------------------------------------------------------------------


@pytest.fixture
def hanin(load):
    return load("hanin2018_finite_width")


@pytest.fixture
def drawn(hanin):
    """Networks drawn from the law itself: products of (2/n) chi^2_K, K ~ Bin(n, 1/2)."""
    rng = np.random.default_rng(0)

    def steps(widths, nets):
        on = [rng.binomial(n, 0.5, nets) for n in widths]
        return np.stack([np.log(2 / n * rng.chisquare(k)) for n, k in zip(widths, on, strict=True)])

    def through(widths, nets=3000):
        up, down = steps(widths, nets), steps(widths, nets)
        logs = {"signal": up.cumsum(0), "gradient": down[::-1].cumsum(0)[::-1]}
        return xr.Dataset(
            {name: (("layer", "seed"), values) for name, values in logs.items()},
            {"layer": np.arange(len(widths)) + 1},
        )

    shapes = [through(widths) for widths in hanin.SHAPES.values()]
    return xr.concat(shapes, "shape", join="outer").assign_coords(shape=list(hanin.SHAPES))


def test_hanin_networks_of_the_law_pass(hanin, drawn):
    checks = hanin.EXPERIMENT.checks(drawn)
    assert missed(checks) == []
    assert len(checks) == 33


def test_hanin_a_wrong_theory_misses_and_is_allowed_no_more(hanin, drawn, monkeypatch):
    right = hanin.EXPERIMENT.checks(drawn)
    replaced(monkeypatch, "finite_width", jacobian_var=lambda found: 1.2 * found.jacobian_var)
    checks = hanin.EXPERIMENT.checks(drawn)
    assert same_tolerances(checks, right)
    slopes = [c for c in checks if c.group.endswith("sum 1/n")]
    assert missed(slopes) == [check.what for check in slopes]
    assert "variance" in missed([c for c in checks if c.group.startswith("log squared")])
    one = [c for c in checks if c.group.startswith("log of one layer's factor")]
    assert missed(one) == ["variance"] * 2


def test_hanin_linear_networks_miss_relu_theory(hanin, drawn):
    # Linear ones scatter by 2/n, not 5/n.
    linear = drawn.assign(gradient=math.sqrt(2 / 5) * drawn.gradient)
    names = missed(hanin.EXPERIMENT.checks(linear))
    assert {"slope of 4 shapes", "second moment", "distance from the law"} <= set(names)


def test_hanin_networks_with_a_layer_that_is_off_are_left_out(hanin, drawn):
    off = drawn.copy(deep=True)
    off.signal.loc[{"shape": "constant 30", "seed": 0, "layer": 3}] = -np.inf
    off.gradient.loc[{"shape": "constant 30", "seed": 1}] = np.nan
    assert missed(hanin.EXPERIMENT.checks(off)) == []
    assert "2 of 15000" in "".join(hanin.notes(off))


# --- lsuv -------------------------------------------------------------------------------------


@pytest.fixture
def lsuv(load):
    return load("lsuv")


def variances(lsuv, factor=1.0):
    dims = {"scaled": full(lsuv)["scaled"], "kind": ["plain", "residual"], "net": range(3),
            "layer": range(1, lsuv.DEEP + 2)}  # fmt: skip
    ones = xr.DataArray(1.0, {name: list(values) for name, values in dims.items()}, list(dims))
    after = ones.copy()
    after.loc[{"scaled": "relu", "kind": "plain", "net": 1, "layer": 21}] = factor
    return xr.Dataset({"before": ones, "after": after})


def found_gains(lsuv, factor=1.0):
    """Gains as theory says but for a factor, and for what finite width does."""
    names, widths = full(lsuv)["gained"], [lsuv.NARROW, 2 * lsuv.NARROW]
    noise = np.random.default_rng(0).normal(size=48)
    noise = 0.002 * math.sqrt(48) * (noise - noise.mean()) / noise.std(ddof=1)
    rows = [[factor * lsuv.gain(name) * (1 + 0.3 / width) + noise for width in widths]
            for name in names]  # fmt: skip
    dims = {"gained": list(names), "width": widths}
    return xr.Dataset({"gain": (("gained", "width", "draw"), rows)}, dims)


def accuracies(lsuv, **middles):
    """Medians under LSUV and under the others, by activation, at the paper's depth."""
    scatter = 0.006 * np.random.default_rng(0).normal(size=(len(lsuv.SCHEMES), 6))
    rows = [
        np.array([own, *[others] * (len(lsuv.SCHEMES) - 1)])[:, None] + scatter
        for own, others in middles.values()
    ]
    coords = {"trained": list(middles), "depth": [lsuv.FITNET], "scheme": list(lsuv.SCHEMES)}
    dims = ("trained", "depth", "scheme", "seed")
    return xr.Dataset({"accuracy": (dims, np.array(rows)[:, None])}, coords)


def test_lsuv_has_its_checks(lsuv):
    trained = accuracies(lsuv, relu=(0.94, 0.93), vlrelu=(0.95, 0.94), tanh=(0.94, 0.97),
                         sigmoid=(0.1, 0.1))  # fmt: skip
    data = xr.merge([variances(lsuv), found_gains(lsuv), trained])
    checks = lsuv.EXPERIMENT.checks(data)
    assert missed(checks) == []
    assert len(checks) == 48


def test_lsuv_one_layer_off_misses(lsuv):
    def names(factor):
        checks = lsuv.compare_variances(variances(lsuv, factor))
        missed(checks)
        return [check.source for check in checks if not check.ok]

    assert names(1 + 1e-5) == []
    assert names(1.01) == ["formula"]
    for factor in (1.2, 0.8, math.nan):
        assert names(factor) == ["paper", "formula"]


def test_lsuv_layer_variances_are_those_of_the_layers(lsuv):
    import jax

    key = jax.random.key(0)
    x = jax.random.normal(key, (200, 64))
    for residual in (None, "plain"):
        net = jinit.MLP((64, 32, 32, 32, 10), activation="tanh", residual=residual)
        # Variances 4, of a scaled copy, and what follows, by hand.
        params, _ = jinit.init(key, net, "xavier", gain=2.0)
        found = np.asarray(lsuv.layer_variances(net, params, x))
        h, expected = np.asarray(x), []
        for i, layer in enumerate(params):
            block = residual is not None and i in (1, 2)
            z = (np.tanh(h) if block else h) @ np.asarray(layer.w)
            expected.append(z.var())
            h = h + z if block else np.tanh(z)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_lsuv_a_gain_five_percent_off_misses(lsuv, monkeypatch):
    def beside_theory(data):
        return [c for c in lsuv.compare_gains(data) if c.source == "theory"]

    gains = found_gains(lsuv)
    right = beside_theory(gains)
    assert missed(right) == []
    for factor in (1.05, 0.95):
        checks = beside_theory(found_gains(lsuv, factor))
        assert missed(checks) == [check.what for check in checks]
    exact = lsuv.gain
    monkeypatch.setattr(lsuv, "gain", lambda name: 1.05 * exact(name))
    checks = beside_theory(gains)
    assert missed(checks) == [check.what for check in checks]
    assert same_tolerances(checks, right)
    # Nor does what makes up for the spread about the mean pass for it.
    monkeypatch.setattr(
        lsuv, "gain", lambda name: jinit.gain(lsuv.activation(name), kind="variance")
    )
    assert missed(beside_theory(gains)) == ["relu", "vlrelu", "gelu", "silu", "sigmoid"]


def test_lsuv_a_wrong_digit_misses(lsuv, monkeypatch):
    gains = found_gains(lsuv)
    exact = lsuv.gain
    monkeypatch.setattr(lsuv, "gain", lambda name: exact(name) + 2e-6)
    checks = [c for c in lsuv.compare_gains(gains) if c.source == "formula"]
    assert missed(checks) == [check.what for check in checks]


def test_lsuv_claims_that_do_not_hold_miss(lsuv):
    def names(**middles):
        return missed(lsuv.compare_training(accuracies(lsuv, **middles)))

    assert names(relu=(0.94, 0.93)) == []
    assert [n.split()[0] for n in names(relu=(0.94, 0.98))] == ["ReLU"]
    assert names(relu=(0.8, 0.5)) == ["ReLU"]
    assert len(names(vlrelu=(0.6, 0.95))) == 2
    assert names(tanh=(0.5, 0.5)) == ["tanh"]
    assert names(sigmoid=(0.1, 0.1)) == []
    assert names(sigmoid=(0.3, 0.1)) == ["lsuv"]
    assert names(sigmoid=(0.1, 0.3)) == list(lsuv.SCHEMES[1:])


def test_lsuv_says_that_tanh_is_not_confirmed(lsuv):
    def said(own):
        parts = (variances(lsuv), found_gains(lsuv), accuracies(lsuv, tanh=(own, 0.97)))
        return "".join(lsuv.notes(xr.merge(parts)))

    assert "Not confirmed: tanh" in said(0.93)
    assert "Not confirmed" not in said(0.97)


# --- mup_coordinate_check ---------------------------------------------------------------------


@pytest.fixture
def mup(load):
    return load("mup_coordinate_check")


def slopes(script, sp=(0.0, 0.9, 1.3), mup=(0.0, 0.0, 0.0)):
    """A Dataset of 16 networks whose slopes are theory's and those, but for noise."""
    steps, seeds = range(script.COORDINATE_STEPS + 1), 16
    noise = 0.02 * np.random.default_rng(0).normal(size=(seeds, len(steps), 3))
    dims, parts = ("network", "step", "layer"), []
    for which, changes in ((script.SP, sp), (script.MUP, mup)):
        size = np.array([script.START[which], *[(0.0, 0.5, 0.8)] * (len(steps) - 1)])
        change = np.array(changes) + noise
        parts.append(xr.Dataset(
            {"size_slope": (dims, size + noise), "change_slope": (dims, change)},
            {"step": steps, "layer": script.LAYERS, "which": which},
        ))  # fmt: skip
    return xr.concat(parts, "which")


def losses(script, sp, mup):
    """Parabolas around the best exponents, lower where wider."""
    exponents = np.arange(-10, -2)

    def of(best):
        rows = [0.1 * (exponents - at) ** 2 - i for i, at in enumerate(best)]
        return np.exp(np.stack(rows))[..., None] * np.array([1.0, 1.01])

    return xr.Dataset(
        {"loss": (("which", "width", "exponent", "seed"), [of(sp), of(mup)])},
        {"which": [script.SP, script.MUP], "width": [32, 512], "exponent": exponents},
    )


def test_mup_has_its_checks(mup):
    data = xr.merge([slopes(mup), losses(mup, (-5, -8), (-5, -5))])
    checks = mup.EXPERIMENT.checks(data)
    assert missed(checks) == []
    assert len(checks) == 22


def test_mup_wrong_powers_miss(mup, monkeypatch):
    def compare(**wrong):
        return mup.compare_coordinates(slopes(mup, **wrong))

    right = compare()
    assert missed(right) == []
    assert missed(compare(mup=(0.0, 0.1, 0.0))) == ["layer 2", "layer 2"]
    assert missed(compare(mup=(0.0, 0.0, -0.1))) == ["logits", "logits"]
    assert missed(compare(sp=(0.1, 0.9, 1.3))) == ["layer 1"]
    flat = compare(sp=(0.0, 0.0, 0.0))
    assert missed(flat) == [
        "logits: 1 to 1.5", "change of layer 2, 1 step", "change of the logits, 1 step",
    ]  # fmt: skip
    assert same_tolerances(flat, right)
    measured = slopes(mup)
    # As if the readout of muP started like that of SP.
    monkeypatch.setattr(mup, "START", dict.fromkeys(mup.START, (0.0, 0.0, 0.0)))
    assert missed(mup.compare_coordinates(measured)) == ["before training, logits"]


def test_mup_a_rate_that_moves_misses(mup):
    def compare(sp, own):
        return missed(mup.compare_rates(losses(mup, sp, own)))

    assert compare((-5, -8), (-5, -5)) == []
    assert compare((-5, -8), (-5, -6)) == []
    assert compare((-5, -8), (-5, -7)) == ["muP: largest move in powers of 2"]
    assert compare((-5, -6), (-5, -5)) == ["SP: moves by more than one"]
    assert compare((-5, -8), (-5, -9)) == [
        "muP: largest move in powers of 2", "muP: better at 512 than at 32",
        "at 512: muP better than SP",
    ]  # fmt: skip
    diverged = losses(mup, (-5, -8), (-5, -5))
    diverged.loss.loc[{"which": mup.MUP, "width": 512}] = np.nan
    assert "muP: better at 512 than at 32" in missed(mup.compare_rates(diverged))


# --- pennington2017 ---------------------------------------------------------------------------


def stretched(theory, by):
    return theory._replace(
        largest=by * theory.largest, eigenvalue=by * theory.eigenvalue, density=theory.density / by
    )


@pytest.mark.long
def test_pennington_wrong_spectra_miss(load, monkeypatch):
    script = load("pennington2017_jacobian_spectra")
    assert len(script.ENSEMBLES) == 6
    linear = next(iter(script.ENSEMBLES))
    monkeypatch.setattr(script, "ENSEMBLES", {linear: script.ENSEMBLES[linear]})
    data = script.measure(seeds=100, width=40)
    right = script.checks(data)
    assert missed(right) == []
    assert len(right) + 5 * 3 == 31
    theory = script.predict(linear)
    scaled = data.assign(eigenvalue=1.25 * data.eigenvalue)
    assert missed(script.checks(scaled)) == ["mean"]
    for wrong, name in (
        (theory._replace(moments=theory.moments * [1, 1.25, 1, 1]), "second moment"),
        (theory._replace(moments=theory.moments * [1, 0.8, 1, 1]), "second moment"),
        (stretched(theory, 0.8), "largest"),
        (stretched(theory, 1.25), "largest"),
    ):
        monkeypatch.setattr(script, "predict", lambda name, wrong=wrong: wrong)
        checks = script.checks(data)
        assert missed(checks) == [name]
        assert same_tolerances(checks, right)


def test_pennington_a_wrong_digit_misses(load, monkeypatch):
    script = load("pennington2017_jacobian_spectra")
    printed = script.compare_with_print()
    assert missed(printed) == []
    replaced(monkeypatch, "jacobian_spectrum", largest=lambda found: 4.0)
    assert len(missed(script.compare_with_print())) == 9


# --- poole2016 --------------------------------------------------------------------------------


@pytest.fixture
def poole(load):
    return load("poole2016_order_to_chaos")


@pytest.fixture
def settled_nets(poole):
    """Lengths and correlations as theory says, but for a bias of 1/width."""
    depth, widths = 6, [poole.WIDTH, 2 * poole.WIDTH]
    theory = xr.DataArray(
        [poole.predict(sigma_w, depth) for sigma_w in poole.SIGMA_WS],
        dims=("sigma_w", "layer", "start"),
    )
    fixed = xr.DataArray(
        [poole.fixed(sigma_w)[:2] for sigma_w in poole.SIGMA_WS], dims=("sigma_w", "fixed_point")
    )
    of_width = 1 + 30 / xr.DataArray(widths, dims="width")
    law, late = of_width * theory, theory.isel(layer=slice(3, None)).mean("layer")
    found = {
        "maps": theory[:, 0], "law": law, "nets": law[0], "late_law": of_width * late,
        "late_nets": of_width[0] * late, "settled": of_width * fixed,
    }  # fmt: skip
    data = xr.Dataset({"theory": theory, "fixed": fixed} | found)
    data = data.assign({f"{name}_error": 0.004 * abs(x) + 1e-4 for name, x in found.items()})
    return data.assign_coords(
        sigma_w=list(poole.SIGMA_WS), width=widths, layer=range(1, depth + 1),
        fixed_point=["q*", "c*"], quantity=("start", poole.QUANTITIES),
        begun=("start", [*poole.LENGTHS, *poole.CORRELATIONS]),
    ).assign_attrs({f"{name}_seeds": 100 for name in found})  # fmt: skip


def groups(checks):
    return {word for word in ("maps", "farthest off", "layers 3 up", "fixed points")
            for check in checks if word in check.group and not check.ok}  # fmt: skip


def test_poole_planted_errors_miss(poole, settled_nets):
    right = poole.checks(settled_nets)
    assert missed(right) == []
    assert len(right) == 87

    def planted(**factors):
        wrong = settled_nets.assign({n: f * settled_nets[n] for n, f in factors.items()})
        return poole.checks(wrong)

    for factor in (1.2, 0.8):
        maps = [c for c in planted(theory=factor) if "maps of theory" in c.group]
        # A correlation of 0 is 0, scaled or not, as far as errors tell.
        assert len(missed(maps)) >= 45
        law = [c for c in planted(theory=factor) if "extrapolated" in c.group]
        assert len(missed(law)) == 6
        assert same_tolerances(planted(theory=factor)[6:57], right[6:57])
        assert groups(planted(nets=factor)) == {"farthest off"}
        assert len(missed(planted(nets=factor))) == 6
        assert groups(planted(late_nets=factor)) == {"layers 3 up"}
        assert len(missed(planted(late_nets=factor))) >= 9
        assert len(missed(planted(fixed=factor))) == 6
    assert groups(planted(law=1.2)) >= {"farthest off"}


def test_poole_what_is_no_number_misses(poole, settled_nets):
    wrong = settled_nets.copy(deep=True)
    wrong.nets[1, 2, 3] = np.nan
    assert [name.split(":")[0] for name in missed(poole.checks(wrong))] == ["sigma_w = 2.5"]


def test_poole_a_wrong_digit_misses(poole, settled_nets, monkeypatch):
    poole.fixed.cache_clear()
    replaced(monkeypatch, "depth_scales", c=lambda found: 1 - 1e-6)
    assert missed(poole.checks(settled_nets)) == ["c*, sigma_w = 1.3", "c*, sigma_w = 4"]


# --- saxe2014 ---------------------------------------------------------------------------------


@pytest.fixture
def saxe(load):
    return load("saxe2014_linear_dynamics")


def training_times(saxe, exponent, size="full"):
    depths = (full(saxe) if size == "full" else saxe.EXPERIMENT.quick)["depths"]
    rng, seeds = np.random.default_rng(0), 64

    def times(depths, steps):
        return xr.DataArray(np.stack([steps(d) for d in depths]), {"depth": list(depths)},
                            ("depth", "seed"))  # fmt: skip

    return xr.Dataset({
        # Nets scatter by 15 %, as the trained ones do.
        "orthogonal": times(depths["orthogonal"], lambda d: (
            8.0 * d**exponent * np.exp(0.15 * rng.normal(size=seeds)))),
        "xavier": times(depths["xavier"], lambda d: np.full(seeds, 20.0 * d**1.5)),
    })  # fmt: skip


def curves(saxe, *, faster=1.0):
    """Gradient flow itself, at the looks of gradient descent."""
    parts, t = [], np.arange(0, saxe.TIME, saxe.LOOK)
    for modes in saxe.MODES:
        strengths = np.linspace(1.0, 0.3, saxe.CENTRED_RANK)
        s = modes.strongest * strengths
        flow = jinit.theory.linear_dynamics(t[:, None], s, modes.u0, depth=modes.layers)
        one = saxe.curve(modes, t, flow, strengths)
        wrong = jinit.theory.linear_dynamics(faster * t[:, None], s, modes.u0, depth=modes.layers)
        parts.append(one.assign(theory=(("t", "mode"), wrong)))
    return xr.concat(parts, "run")


def test_saxe_has_its_checks(saxe):
    data = xr.merge([curves(saxe), training_times(saxe, 0.0)], join="outer")
    checks = saxe.EXPERIMENT.checks(data)
    assert missed(checks) == []
    assert len(checks) == 15


@pytest.mark.parametrize("size", ["quick", "full"])
def test_saxe_tells_no_growth_from_a_root_of_depth(saxe, size):
    # Shallow Gaussian nets are not slower than these, the deepest are.
    assert missed(saxe.compare_depths(training_times(saxe, 0.0, size))) == []
    checks = saxe.compare_depths(training_times(saxe, 0.5, size))
    assert [name.split(",")[0] for name in missed(checks)] == ["orthogonal"] * 2
    claim = checks[0]
    assert claim.source == "claim"
    assert abs(claim.measured - claim.expected) > 2.5 * claim.tolerance


def test_saxe_allows_no_more_for_a_wrong_theory(saxe, monkeypatch):
    times = training_times(saxe, 0.0, "quick")
    right = saxe.compare_depths(times)
    time = jinit.theory.linear_dynamics_time
    monkeypatch.setattr(
        jinit.theory,
        "linear_dynamics_time",
        lambda u, s, u0, *, depth=2: math.sqrt(depth) * time(u, s, u0, depth=depth),
    )
    wrong = saxe.compare_depths(times)
    assert same_tolerances(wrong, right)
    assert missed(wrong) == [wrong[1].what]
    assert wrong[1].source == "theory"


def test_saxe_gaussian_nets_as_fast_as_orthogonal_ones_miss(saxe):
    times = training_times(saxe, 0.0, "quick")
    times["xavier"] = times.orthogonal.where(times.depth <= 8)
    names = missed(saxe.compare_depths(times))
    assert len(names) == 2
    assert all(name.startswith("Gaussian slower") for name in names)


def test_saxe_a_theory_two_percent_fast_misses(saxe, monkeypatch):
    def distances(data):
        return [c for c in saxe.compare_modes(data) if c.source == "theory"]

    # Half a step late, and as late as in `lateness`, is allowed: the flow is on time.
    assert missed(distances(curves(saxe))) == []
    assert len(missed(distances(curves(saxe, faster=1.02)))) == len(saxe.MODES)
    data, time = curves(saxe), jinit.theory.linear_dynamics_time
    monkeypatch.setattr(
        jinit.theory, "linear_dynamics_time", lambda *args, **depth: time(*args, **depth) / 1.02
    )
    checks = saxe.compare_modes(data)
    assert [c.group for c in checks if not c.ok] == ["Times, in theory"] * 4


def test_saxe_a_best_rate_at_the_end_of_the_grid_is_an_error(saxe):
    def best(*steps):
        return saxe.best(xr.DataArray([[s] for s in steps], dims=("rate", "seed")))

    assert best(9.0, 5.0, math.inf).values.tolist() == [5.0]
    with pytest.raises(RuntimeError, match="1 of 1 nets do best at an end"):
        best(9.0, 5.0, 4.0)


# --- schoenholz2017 ---------------------------------------------------------------------------


@pytest.fixture
def schoenholz(load, monkeypatch):
    """Networks that decay as theory's maps do, but for noise and a bias of 1/width."""
    script = load("schoenholz2017_depth_scales")

    def decay(width, layers, seeds, weight_vars):
        exact = np.stack([script.predicted_decay(w, layers) for w in weight_vars])
        at = np.arange(layers + 1)
        noise = 0.005 * np.random.default_rng(width).normal(size=(seeds, 1, 1, 1)) * at
        return exact * np.exp(at / width + noise)

    monkeypatch.setattr(script, "decay", decay)
    return script


@pytest.fixture
def scales(schoenholz):
    return schoenholz.measure_scales((1.3, 4.0), 8, {schoenholz.NARROW: 150, schoenholz.WIDE: 48})


def accuracies_of(script, factor):
    """Half way from the best to chance at so many xi_c."""
    depth = xr.DataArray(list(full(script)["depths"]), dims="depth")
    weight_vars = list(full(script)["weight_vars"])
    xi = xr.DataArray([script.theory(w).xi_c for w in weight_vars], dims="weight_var")
    end = 0.1 + 0.8 / (1 + (depth / (factor * xi)) ** 8)
    data = xr.Dataset({"end": end.expand_dims(seed=2), "early": end.expand_dims(seed=2)})
    return data.assign_coords(depth=depth.values, weight_var=weight_vars)


def by_group(checks, start):
    return [check for check in checks if check.group.startswith(start)]


def test_schoenholz_has_its_checks(schoenholz):
    nets = {schoenholz.NARROW: 12, schoenholz.WIDE: 12}
    scales = schoenholz.measure_scales(full(schoenholz)["decay_vars"], 10, nets)
    data = xr.merge([scales, accuracies_of(schoenholz, 6.0)])
    assert len(schoenholz.checks(data)) == 53


def test_schoenholz_wrong_depth_scales_miss(schoenholz, scales):
    data = xr.merge([scales, accuracies_of(schoenholz, 6.0)])
    right = schoenholz.checks(data)
    assert missed(right) == []
    checks = schoenholz.checks(data.assign(xi=1.01 * data.xi))
    assert missed(checks) == [c.what for c in by_group(checks, "slope of theory's")]
    # Maps that are steeper: their deviations take a fifth longer to decay.
    checks = schoenholz.checks(data.assign(fitted=1.2 * data.fitted))
    assert same_tolerances(checks, right)
    assert missed(checks) == [c.what for c in by_group(checks, "decay in networks")]


def test_schoenholz_a_depth_scale_half_as_long_again_misses(schoenholz, scales):
    def trains(factor):
        data = xr.merge([scales, accuracies_of(schoenholz, factor)])
        return by_group(schoenholz.checks(data), "ordered phase")

    right = trains(6.0)
    assert missed(right) == []
    assert [c.what for c in right] == [f"variance {w:g}" for w in (0.8, 0.9, 1, 1.15, 1.3)]
    for wrong in (6.0 / 1.5, 6.0 * 1.5, 1e9):  # the last are deeper than all: no number
        assert len(missed(trains(wrong))) == len(right)


def test_schoenholz_half_way_from_best_to_chance(schoenholz):
    half = schoenholz.half_way([10, 20, 40], np.array([0.9, 0.9, 0.1]))
    assert half == pytest.approx(20 * math.sqrt(2))
    assert math.isnan(schoenholz.half_way([10, 20, 40], np.array([0.9, 0.9, 0.6])))


# --- yang2019 ---------------------------------------------------------------------------------


@pytest.fixture
def yang(load):
    return load("yang2019_batchnorm_explosion")


def test_yang_a_wrong_expectation_misses_the_closed_form(yang, monkeypatch):
    assert missed(yang.compare_theory()) == []
    # The last expectation is the spread, by which growth is divided.
    batch_norm = jinit.theory.layers.batch_norm
    mean = batch_norm.mean_over

    def wrong(*args, **options):
        *others, spread = mean(*args, **options)
        return *others, 1.001 * spread

    monkeypatch.setattr(batch_norm, "mean_over", wrong)
    names = missed(yang.compare_theory())
    assert names == [f"linear by quadrature, batch {batch}" for batch in (4, 8, 16, 64)]


def networks(yang, *, factor=1.0):
    """As grow by what theory says, but for a factor; beside unstable points, as published."""
    rows = []
    for name, batches in full(yang)["batches"].items():
        for batch in batches:
            exact = 1.39 if yang.unstable(name, batch) else yang.formula(name, batch)
            rows.append((name, batch, math.log(factor * exact), factor * exact, 0.002, 0.0))
    names = ["activation", "batch", "log", "factor", "error", "half_variance"]
    return pd.DataFrame(rows, columns=names)


def test_yang_growth_is_the_slope_of_the_mean_log(yang):
    rng, layers = np.random.default_rng(0), np.arange(66)
    walks = 0.02 * rng.normal(size=(40, 66)).cumsum(1) - 0.3 * layers
    data = xr.Dataset(
        {"log_square": (("cell", "seed", "layer"), walks[None])},
        {"cell": [0], "activation": ("cell", ["relu"]), "batch": ("cell", [16])},
    )
    found = yang.growths(data).iloc[0]
    assert found.log == pytest.approx(0.3, abs=5 * found.error)
    assert found.error == pytest.approx(0.02 * math.sqrt(1.2 / (40 * 59)), rel=0.05)
    assert found.half_variance == pytest.approx(0.02**2 / 2, rel=0.1)


def test_yang_networks_two_percent_off_miss(yang):
    right = yang.compare_networks(networks(yang), quick=False)
    assert missed(right) == []
    assert len(right) + len(yang.compare_theory()) == 27
    checks = yang.compare_networks(networks(yang, factor=1.02), quick=False)
    assert missed(checks) == [check.what for check in checks]


def test_yang_a_wrong_theory_misses_and_is_allowed_no_more(yang, monkeypatch):
    right = networks(yang)
    tolerances = [c.tolerance for c in yang.compare_networks(right, quick=False)]
    formula = yang.formula
    monkeypatch.setattr(yang, "formula", lambda *cell: 0.9 * formula(*cell))
    checks = yang.compare_networks(right, quick=False)
    assert all(c.tolerance <= allowed for c, allowed in zip(checks, tolerances, strict=True))
    assert missed(checks) == [c.what for c in checks if c.source == "theory"]


def test_yang_deep_unstable_networks_on_the_formula_miss(yang):
    measured = networks(yang)
    measured["factor"] = [yang.formula(m.activation, m.batch) for m in measured.itertuples()]
    checks = yang.compare_networks(measured, quick=False)
    assert missed(checks) == ["SiLU, batch 128", "GELU, batch 128"]
