"""Every script in experiments/ at its small setting, and that its comparisons can fail."""

import ast
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest

import jinit

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
# A leading underscore marks what the scripts share.
SCRIPTS = sorted(path for path in EXPERIMENTS.glob("*.py") if not path.name.startswith("_"))


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common = module_of("_common")


def run(script, *options, cwd):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, options)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def names(scripts):
    return [path.stem for path in scripts]


def test_every_published_result_is_there():
    assert names(SCRIPTS) == [
        "audit_frameworks",
        "cs231n_activations",
        "deeplearning_ai_initialization",
        "hanin2018_finite_width",
        "lsuv",
        "mup_coordinate_check",
        "pennington2017_jacobian_spectra",
        "poole2016_order_to_chaos",
        "saxe2014_linear_dynamics",
        "schoenholz2017_depth_scales",
        "yang2019_batchnorm_explosion",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_small_setting(script, tmp_path):
    first = run(script, "--quick", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "numbers met: " in first.stdout
    assert "jax" in first.stdout.splitlines()[0]

    out = tmp_path / "results" / script.stem
    written = sorted(path.name for path in out.iterdir())
    assert f"{script.stem}.png" in written
    assert "published_measured.csv" in written
    assert all((out / name).stat().st_size > 100 for name in written)
    table = (out / "published_measured.csv").read_text().splitlines()
    assert len(table) > 1
    assert all(line.endswith(",yes") for line in table[1:])

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    second = run(script, "--quick", cwd=tmp_path)
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    for part in (f"results/{script.stem}", "new or empty directory", "--overwrite", "--out"):
        assert part in second.stderr
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def private_uses(source):
    """Names that a script takes from jinit although they are no part of its public face."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    wrong = [
        alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] == "jinit" and (alias.name != "jinit" or alias.asname)
    ]
    wrong += [
        node.module or ""
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jinit"
    ]
    # Of tuples with names only; a module under another name has no other way in.
    tuples = {"_fields", "_replace", "_asdict"}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    wrong += [
        node.attr
        for node in attributes
        if node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in tuples
    ]
    of_jinit = [n for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "jinit"]
    inner = {id(node.value): node.attr for node in attributes}
    for node in of_jinit:
        if node.attr not in jinit.__all__:
            wrong.append(node.attr)
            continue
        found = getattr(jinit, node.attr)
        if isinstance(found, ModuleType) and inner.get(id(node)) not in found.__all__:
            wrong.append(f"{node.attr}.{inner.get(id(node))}")
    return wrong


PYTHON = sorted(EXPERIMENTS.glob("*.py"))


@pytest.mark.parametrize("script", PYTHON, ids=names(PYTHON))
def test_only_the_public_face_is_used(script):
    source = script.read_text()
    assert script not in SCRIPTS or "jinit." in source
    assert private_uses(source) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("jinit.theory.gain('tanh')", []),
        ("jinit.theory.curve.Curve", ["theory.curve"]),
        ("jinit.theory._private(1)", ["_private", "theory._private"]),
        ("jinit.plots.Values", ["plots.Values"]),
        ("jinit.schemes", ["schemes"]),
        ("theory = jinit.theory", ["theory.None"]),
        ("import jinit.theory as t", ["jinit.theory"]),
        ("from jinit.theory import gain", ["jinit.theory"]),
        ("found._replace(q=1)", []),
    ],
)
def test_what_is_no_public_face_is_seen(line, wrong):
    assert private_uses(f"import jinit\n{line}\n") == wrong


# --- the comparison ---------------------------------------------------------------------------


def check(expected, measured, tolerance=0.01, source="paper"):
    return common.Check("a group", "a number", expected, measured, tolerance, source)


def test_numbers_within_tolerance_pass(capsys):
    assert common.verdict([check(1.0, 1.009), check(1.0, 0.991)]) == 0
    assert "2 of 2 numbers met: 2 of 2 printed by the source." in capsys.readouterr().out


@pytest.mark.parametrize("measured", [1.011, 0.989, math.nan, math.inf])
def test_one_missed_number_fails_and_is_named(measured, capsys):
    assert common.verdict([check(1.0, 1.0), check(1.0, measured)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Missed: a group, a number: expected 1," in printed
    assert "1 of 2 numbers met: 1 of 2 printed by the source." in printed


def test_every_source_is_counted_by_itself(capsys):
    checks = [check(1.0, 1.0, source=source) for source in common.SOURCES]
    common.verdict([*checks, check(1.0, 2.0, source="theory")])
    printed = " ".join(capsys.readouterr().out.split())
    for source, words in common.SOURCES.items():
        assert f"1 of {2 if source == 'theory' else 1} {words}" in printed
    with pytest.raises(ValueError, match="nowhere"):
        common.verdict([check(1.0, 1.0, source="nowhere")])


def test_what_a_setting_cannot_check_is_said(capsys):
    common.verdict([check(1.0, 1.0)], left_out=["the accuracy after 15000 steps."])
    assert "Not checked at this setting: the accuracy" in capsys.readouterr().out


def test_a_verdict_without_checks_is_an_error():
    with pytest.raises(ValueError, match="at least one check"):
        common.verdict([])


@pytest.mark.parametrize(
    ("printed", "expected"), [("0.213546", 5e-7), ("2.97728e-7", 5e-13), ("0.294390", 5e-7)]
)
def test_half_unit_of_the_last_digit(printed, expected):
    assert common.half_unit(printed) == pytest.approx(expected, rel=1e-12)
    one = common.printed("a group", "a number", printed, float(printed) + 0.9 * expected)
    assert one.ok
    assert not one._replace(measured=float(printed) + 1.1 * expected).ok


def test_what_is_printed_without_a_point_is_exact():
    assert common.printed("a group", "c*", "1", 1 - 1e-9).ok
    assert not common.printed("a group", "c*", "1", 1 - 1e-7).ok


# --- estimates --------------------------------------------------------------------------------


def test_few_seeds_are_allowed_more_standard_errors():
    assert common.errors_allowed(10) == pytest.approx(12.42, abs=0.01)
    assert common.errors_allowed(10**6) == pytest.approx(5, abs=1e-3)
    found = common.average(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert found.tolerance == pytest.approx(common.errors_allowed(3) / math.sqrt(3))


@pytest.mark.parametrize("ratio", [2.0, 4.0])
def test_extrapolation_leaves_out_what_goes_as_one_over_width(ratio):
    def at(width, error):
        return common.Estimate(np.array(7 + 30 / width), np.array(error), 50)

    found = common.extrapolate(at(100, 0.0), at(100 * ratio, 0.1), ratio=ratio)
    assert found.mean == pytest.approx(7, rel=1e-12)
    assert found.error == pytest.approx(0.1 * ratio / (ratio - 1))
    assert found.seeds == 50


# --- planted errors ---------------------------------------------------------------------------
# Those of hanin2018, lsuv, saxe2014 and yang2019 are in test_experiment_checks.py.


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setitem(sys.modules, "_common", common)
    monkeypatch.setitem(sys.modules, "_frameworks", module_of("_frameworks"))
    return module_of


def missed(checks):
    names = [check.what for check in checks if not check.ok]
    assert common.verdict(checks) == (1 if names else 0)
    return names


def same_tolerances(checks, others):
    # What is allowed knows nothing of the theory that is compared.
    return [c.tolerance for c in checks] == pytest.approx([c.tolerance for c in others], rel=1e-6)


# --- audit_frameworks


def followed(script, rule, *, output_error=1e-7):
    """Networks that are as predicted, but for noise."""
    expected = script.predict(rule)
    noise = 0.01 * np.random.default_rng(0).normal(size=(16, script.DEPTH))
    width = 0 if rule.bias_var else expected.signal_width
    signal = expected.signal + width + noise
    gradient = expected.gradient + expected.gradient_width + noise
    return script.Deep(signal, gradient, output_error)


def test_audit_frameworks_says_which_extra_it_needs(load, monkeypatch, capsys):
    script = load("audit_frameworks")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    assert script.main() == 2
    assert capsys.readouterr().err == (
        "audit_frameworks needs flax, equinox, haiku: install the extra with "
        "pip install 'jinit[models]'.\n"
    )


def test_audit_frameworks_wrong_gains_miss_after_thirty_layers(load, monkeypatch):
    script = load("audit_frameworks")
    measured = {name: followed(script, rule) for name, rule in script.RULES.items()}
    right = script.compare_signals(measured)
    assert missed(right) == []
    for factor in (1.02, 0.98):
        wrong = {name: r._replace(gain=factor * r.gain) for name, r in script.RULES.items()}
        monkeypatch.setattr(script, "RULES", wrong)
        checks = script.compare_signals(measured)
        # Biases hold the signal of Equinox, whatever the gain.
        assert missed(checks) == [
            what
            for rule in wrong.values()
            for what in (["gradient"] if rule.bias_var else ["signal", "gradient"])
        ]
        assert same_tolerances(checks, right)
        monkeypatch.undo()
    # As if Haiku corrected for the cut, and as if Equinox had no biases.
    rules = script.RULES
    others = {"Haiku": rules["Haiku"]._replace(gain=1.0)}
    others["Equinox"] = rules["Equinox"]._replace(bias_var=0.0)
    monkeypatch.setattr(script, "RULES", rules | others)
    names = {
        check.group.split(":")[0] for check in script.compare_signals(measured) if not check.ok
    }
    assert names == {"Haiku", "Equinox"}


def test_audit_frameworks_layers_of_another_model_miss(load):
    script = load("audit_frameworks")
    measured = {"Equinox": followed(script, script.RULES["Equinox"], output_error=1e-3)}
    assert missed(script.compare_signals(measured)) == ["Equinox"]


def test_audit_frameworks_wrong_defaults_miss(load):
    script = load("audit_frameworks")

    def audits(*, weight=1.0, embedding=1.0, convention=None):
        def rows(model, rule):
            made = []
            for role, layers in script.LAYERS[model].items():
                std = {"embedding": embedding * rule.embedding, "scale": 0.0}.get(
                    role, weight * rule.gain / 8
                )
                matches = (convention or rule.convention,)
                made += [
                    SimpleNamespace(
                        role=role, order=i, shape=(64, 100), fan_in=64, std=std, matches=matches
                    )
                    for i in range(len(layers))
                ]
            return SimpleNamespace(rows=made)

        return {
            name: {model: rows(model, rule) for model in script.LAYERS}
            for name, rule in script.RULES.items()
        }

    def groups(checks):
        missed(checks)
        return {check.group.split(",")[0] for check in checks if not check.ok}

    every = len(script.RULES)
    right = script.compare_audits(audits())
    assert missed(right) == []
    assert len(right) == (2 * len(script.LAYERS) + 1) * every
    heavy = script.compare_audits(audits(weight=1.1))
    assert groups(heavy) == {"gain of the weights"}
    assert len(missed(heavy)) == len(script.LAYERS) * every
    assert same_tolerances(heavy, right)
    assert groups(script.compare_audits(audits(embedding=1.1))) == {"std of the embedding"}
    other = script.compare_audits(audits(convention="keras"))
    assert groups(other) == {"share of weights that are their convention's"}


# --- cs231n2016 and deeplearning.ai


def test_cs231n_a_wrong_digit_misses(load):
    # The measured numbers are theory's own.
    script = load("cs231n_activations")
    setting = script.SETTINGS["ReLU, He"]
    predicted = script.predict(setting)
    seeds = [0.999, 1.001]
    measured = script.Measured(
        *(
            np.stack([scale * predicted[quantity] for scale in seeds])
            for quantity in ("mean", "std")
        ),
        histogram=None,
    )
    assert missed(script.compare("ReLU, He", setting, measured)) == []
    wrong = setting._replace(
        published=setting.published | {"std": setting.published["std"].replace("0.8", "0.7", 1)}
    )
    assert missed(script.compare("ReLU, He", wrong, measured)) == ["layer 1", "layer 1"]


def test_deeplearning_ai_a_wrong_accuracy_or_cost_misses(load):
    script = load("deeplearning_ai_initialization")
    he = np.repeat(script.HE_COSTS, 1000)
    costs = {"zeros": np.full(script.STEPS, math.log(2)), "times 10": he, "He": he}

    def names(costs, accuracies):
        checks, left_out = script.compare(costs, accuracies, script.STEPS)
        assert left_out == []
        return missed(checks)

    assert names(costs, script.ACCURACY) == []
    one_sample_more = script.ACCURACY | {"He": (299 / 300, 0.97)}
    assert names(costs, one_sample_more) == ["300 training points", "100 test points"]
    wrong = names(costs | {"He": he * (1 + 1e-8)}, script.ACCURACY)
    assert len(wrong) == len(script.HE_COSTS)


# --- poole2016


@pytest.fixture
def poole(load, monkeypatch):
    script = load("poole2016_order_to_chaos")
    monkeypatch.setattr(script, "WIDTH", 200)
    return script


def law_of(poole, draw):
    keys = jax.random.split(jax.random.key(0))
    return poole.Law(
        *(poole.summary(draw(k, width=w)) for k, w in zip(keys, (200, 400), strict=True))
    )


def test_poole_wrong_fixed_points_miss(poole):
    theory = poole.predict(poole.begin(), 1)
    settled = law_of(poole, lambda key, width: poole.long_chains(key, 64, 120, width=width))
    right = poole.compare_fixed_points(settled, theory)
    assert missed(right) == []
    for scale in (1.05, 0.95):
        longer = theory._replace(settled={w: scale * q for w, q in theory.settled.items()})
        wrong = poole.compare_fixed_points(settled, longer)
        assert missed(wrong) == [f"q*, sigma_w = {w:g}" for w in poole.SIGMA_WS]
        assert same_tolerances(wrong, right)
    apart = theory._replace(alike={w: 0.3 * c for w, c in theory.alike.items()})
    names = missed(poole.compare_fixed_points(settled, apart))
    assert names == ["c*, sigma_w = 1.3", "c*, sigma_w = 2.5"]  # 0.03 asks for wider chains


def test_poole_wrong_trajectories_miss(poole):
    start = poole.begin()
    theory = poole.predict(start, 5)
    law = law_of(poole, lambda key, width: poole.chains(key, start, 400, 5, width=width))
    assert missed(poole.compare_law(law, theory)) == []
    assert len(missed(poole.compare_law(law, theory._replace(q=1.15 * theory.q)))) == 3
    assert len(missed(poole.compare_law(law, theory._replace(c=theory.c**1.5)))) == 3
    # Networks that are not of the law miss it, whatever theory says.
    nets = poole.Measured(*(e._replace(seeds=50) for e in law.narrow))
    assert missed(poole.compare_networks(nets, law.narrow)) == []
    longer = nets._replace(q=nets.q._replace(mean=1.2 * nets.q.mean))
    assert len(missed(poole.compare_networks(longer, law.narrow))) == 3
    assert len(missed(poole.compare_late(longer, law.narrow, 5))) == 6


def test_poole_wrong_maps_miss(poole):
    theory = poole.predict(poole.begin(), 1)
    maps = poole.Measured(
        *(common.Estimate(x[:, 1], 0.005 * np.abs(x[:, 1]), 40) for x in (theory.q, theory.c))
    )
    right = poole.compare_maps(maps, theory)
    assert missed(right) == []
    wrong = poole.compare_maps(maps, theory._replace(q=1.1 * theory.q, c=1.1 * theory.c))
    assert len(missed(wrong)) == len(right) == 51
    assert same_tolerances(wrong, right)


def test_poole_a_wrong_digit_misses(poole, monkeypatch):
    assert missed(poole.compare_with_print()) == []
    exact = jinit.theory.depth_scales
    monkeypatch.setattr(
        jinit.theory,
        "depth_scales",
        lambda *args, **options: exact(*args, **options)._replace(c=1 - 1e-6),
    )
    names = missed(poole.compare_with_print())
    assert names == ["c*, sigma_w = 1.3", "c*, sigma_w = 4"]


# --- schoenholz2017


@pytest.fixture
def schoenholz(load, monkeypatch):
    """Networks that decay as theory's maps do, but for noise and a bias of 1/width."""
    script = load("schoenholz2017_depth_scales")
    setting = script.QUICK_DECAYS
    exact = [script.predicted_decay(w, setting.layers) for w in setting.weight_vars]

    def decay(key, width, setting, *, seeds):
        rng = np.random.default_rng(width)
        layers = np.arange(setting.layers + 1)
        slower = np.exp(layers / width)
        return tuple(
            np.stack([np.stack([e[k] for e in exact])] * seeds)
            * slower * np.exp(0.005 * rng.normal(size=(seeds, 1, 1)) * layers)
            for k in range(2)
        )  # fmt: skip

    monkeypatch.setattr(script, "decay", decay)
    return script


def test_schoenholz_wrong_depth_scales_miss(schoenholz, monkeypatch):
    right = schoenholz.compare_scales(schoenholz.measure_scales(schoenholz.QUICK_DECAYS))
    assert missed(right) == []
    exact = schoenholz.theory
    monkeypatch.setattr(
        schoenholz,
        "theory",
        lambda w: exact(w)._replace(xi_q=1.01 * exact(w).xi_q, xi_c=1.01 * exact(w).xi_c),
    )
    checks = schoenholz.compare_scales(schoenholz.measure_scales(schoenholz.QUICK_DECAYS))
    assert missed(checks) == [c.what for c in checks if c.group.startswith("slope of theory's")]


def test_schoenholz_wrong_maps_miss(schoenholz, monkeypatch):
    right = schoenholz.measure_scales(schoenholz.QUICK_DECAYS)
    # Maps that are steeper: their deviations take a fifth longer to decay.
    wrong = [scale._replace(fitted=1.2 * scale.fitted) for scale in right]
    checks = schoenholz.compare_scales(wrong)
    assert same_tolerances(checks, schoenholz.compare_scales(right))
    assert missed(checks) == [c.what for c in checks if c.group.startswith("decay in networks")]


def test_schoenholz_a_depth_scale_half_as_long_again_misses(schoenholz):
    setting = schoenholz.TRAINING
    factors = np.full(len(setting.weight_vars), 6.0)
    right = schoenholz.compare_factors(setting, factors)
    assert missed(right) == []
    assert [c.what for c in right] == [f"variance {w:g}" for w in (0.8, 0.9, 1, 1.15, 1.3)]
    for wrong in (factors / 1.5, factors * 1.5, np.full(len(factors), math.nan)):
        assert len(missed(schoenholz.compare_factors(setting, wrong))) == len(right)


def test_schoenholz_half_way_from_best_to_chance(schoenholz):
    assert schoenholz.half_way([10, 20, 40], np.array([0.9, 0.9, 0.1])) == pytest.approx(
        20 * math.sqrt(2)
    )
    assert math.isnan(schoenholz.half_way([10, 20, 40], np.array([0.9, 0.9, 0.6])))


# --- pennington2017


def stretched(theory, by):
    return theory._replace(
        largest=by * theory.largest, eigenvalue=by * theory.eigenvalue, density=theory.density / by
    )


def test_pennington_wrong_spectra_miss(load):
    script = load("pennington2017_jacobian_spectra")
    setting = script.SETTINGS[0]
    keys = jax.random.split(jax.random.key(0))
    narrow, wide = (script.measure(k, setting, n, 100) for k, n in zip(keys, (40, 80), strict=True))
    theory = script.predict(setting)
    found = script.Found(setting, narrow, wide, theory)
    right = script.compare(found)
    assert missed(right) == []
    scaled = found._replace(narrow=1.25 * narrow, wide=1.25 * wide)
    assert missed(script.compare(scaled)) == ["mean"]
    for wrong, name in (
        (theory._replace(moments=theory.moments * [1, 1.25, 1, 1]), "second moment"),
        (theory._replace(moments=theory.moments * [1, 0.8, 1, 1]), "second moment"),
        (stretched(theory, 0.8), "largest"),
        (stretched(theory, 1.25), "largest"),
    ):
        checks = script.compare(found._replace(theory=wrong))
        assert missed(checks) == [name]
        assert same_tolerances(checks, right)


def test_pennington_a_wrong_digit_misses(load, monkeypatch):
    script = load("pennington2017_jacobian_spectra")
    assert missed(script.compare_with_print()) == []
    exact = jinit.theory.jacobian_spectrum
    monkeypatch.setattr(
        jinit.theory,
        "jacobian_spectrum",
        lambda *args, **options: exact(*args, **options)._replace(largest=4.0),
    )
    assert len(missed(script.compare_with_print())) == 9


# --- mup_coordinate_check


def slopes_of(script, which, step_1):
    """A Dataset of 16 networks whose slopes are theory's and `step_1`, but for noise."""
    import xarray as xr

    steps, seeds = range(script.COORDINATE_STEPS + 1), 16
    noise = 0.02 * np.random.default_rng(0).normal(size=(seeds, len(steps), 3))
    dims = ("seed", "step", "layer")
    size = np.array([script.START[which], *[(0.0, 0.5, 0.8)] * (len(steps) - 1)])
    return xr.Dataset(
        {"size_slope": (dims, size + noise), "change_slope": (dims, np.array(step_1) + noise)},
        {"seed": range(seeds), "step": steps, "layer": list(script.LAYERS)},
    )


def test_mup_wrong_powers_miss(load, monkeypatch):
    script = load("mup_coordinate_check")

    def compare(sp=(0.0, 0.9, 1.3), mup=(0.0, 0.0, 0.0)):
        return script.compare_coordinates({
            script.SP: slopes_of(script, script.SP, sp),
            script.MUP: slopes_of(script, script.MUP, mup),
        })  # fmt: skip

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
    measured = {which: slopes_of(script, which, (0.0, 0.9, 1.3)) for which in (script.SP,)}
    measured[script.MUP] = slopes_of(script, script.MUP, (0.0, 0.0, 0.0))
    # As if the readout of muP started like that of SP.
    monkeypatch.setattr(script, "START", dict.fromkeys(script.START, (0.0, 0.0, 0.0)))
    assert missed(script.compare_coordinates(measured)) == ["before training, logits"]


def test_mup_a_rate_that_moves_misses(load):
    script = load("mup_coordinate_check")
    setting = script.QUICK

    def losses(best):
        """Parabolas around the best exponents, lower where wider; `[width, rate, seed]`."""
        exponents = np.array(setting.exponents)
        rows = [0.1 * (exponents - at) ** 2 - i for i, at in enumerate(best)]
        return np.exp(np.stack(rows))[..., None] * np.array([1.0, 1.01])

    def compare(sp, mup):
        return missed(
            script.compare_rates(setting, {script.SP: losses(sp), script.MUP: losses(mup)})
        )

    assert compare((-5, -8), (-5, -5)) == []
    assert compare((-5, -8), (-5, -6)) == []
    assert compare((-5, -8), (-5, -7)) == ["muP: largest move in powers of 2"]
    assert compare((-5, -6), (-5, -5)) == ["SP: moves by more than one"]
    assert compare((-5, -8), (-5, -9)) == [
        "muP: largest move in powers of 2", "muP: better at 512 than at 32",
        "at 512: muP better than SP",
    ]  # fmt: skip
    diverged = losses((-5, -5))
    diverged[-1] = np.nan
    assert "muP: better at 512 than at 32" in missed(
        script.compare_rates(setting, {script.SP: losses((-5, -8)), script.MUP: diverged})
    )


# --- where results go -------------------------------------------------------------------------


@pytest.fixture
def parse(monkeypatch):
    def parse(*options):
        monkeypatch.setattr(sys, "argv", ["name.py", *map(str, options)])
        return common.arguments("name", "What it does.", quick="less")

    return parse


def refused(parse, capsys, *options):
    with pytest.raises(SystemExit) as exit_:
        parse(*options)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_a_new_or_empty_directory_is_taken(parse, tmp_path):
    assert parse("--out", tmp_path / "a" / "b").out == tmp_path / "a" / "b"
    assert parse("--out", tmp_path / "a" / "b").out.is_dir()


def test_a_directory_with_files_needs_overwrite(parse, tmp_path, capsys):
    (tmp_path / "old.csv").write_text("x")
    message = refused(parse, capsys, "--out", tmp_path)
    assert f"got '{tmp_path}', which holds 1 file (old.csv)" in message
    assert "--overwrite" in message
    assert parse("--out", tmp_path, "--overwrite").overwrite
    assert (tmp_path / "old.csv").exists()


def test_an_out_that_is_no_directory_is_refused(parse, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    for out in (file, file / "below"):
        message = refused(parse, capsys, "--out", out)
        assert f"--out must be a directory that can be written, got '{out}'" in message
        assert message.count("\n") == 1


def test_unknown_options_are_refused(parse, tmp_path, capsys):
    message = refused(parse, capsys, "--out", tmp_path, "--quik")
    assert message.startswith("unrecognized arguments: --quik; allowed are --out DIR, --quick")
    assert message.count("\n") == 1
