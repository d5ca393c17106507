"""Pictures hold what they were given."""

import jax
import numpy as np
import pytest
import xarray as xr

import jinit
from jinit import plots, theory


@pytest.fixture
def ax():
    with plots.style():
        _, axes = plots.figure(1)
        yield axes[0][0]


def test_band_is_median_and_quantiles(ax):
    runs = np.arange(11.0)[:, None] + np.array([0.0, 100.0])
    line, _ = plots.band(ax, [0, 1], runs, label="a", color="C0")
    np.testing.assert_array_equal(line.get_ydata(), [5.0, 105.0])


def test_diverged_runs_are_drawn_at_the_top_not_left_out(ax):
    line, _ = plots.band(ax, [0], np.array([[1.0], [np.nan], [np.inf]]), label="a", color="C0")
    assert line.get_ydata()[0] > 1e38


def test_histograms_draw_one_ridge_per_layer_with_its_note(ax):
    counts = np.array([[1, 2, 1], [0, 4, 0]])
    ridges = plots.histograms(ax, counts, [0, 1, 2, 3], color="C0", notes=["one", "two"])
    assert len(ridges) == 2
    assert [t.get_text() for t in ax.texts] == ["one", "two"]
    # The first layer is on top, and each ridge is scaled to its own peak.
    tops = [np.max(r.get_data().values - r.get_data().baseline) for r in ridges]
    assert tops[0] == pytest.approx(tops[1])
    assert np.max(ridges[0].get_data().values) > np.max(ridges[1].get_data().values)


def test_gradient_map_marks_schemes_on_log_axes(ax):
    scale, depth = np.geomspace(0.1, 10, 9), [2, 4, 8]
    values = np.log(scale)[None] * np.array(depth)[:, None]
    mesh = plots.gradient_map(ax, scale, depth, values, limit=5.0, marks={"Xavier": 1.0})
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "Xavier" in [t.get_text() for t in ax.texts]
    assert mesh.levels[0] == -5
    assert mesh.levels[-1] == 5


def test_weights_image_has_one_column_per_unit(ax):
    image = plots.weights(ax, np.ones((3, 5)), limit=2.0)
    assert image.get_array().shape == (3, 5)
    assert image.get_clim() == (-2.0, 2.0)


# --- theory beside measurement ----------------------------------------------------------------


class Measured:
    """As much of `LayerSignals` as the picture needs."""

    def __init__(self, log_act, log_grad):
        self.log_act, self.log_grad = np.asarray(log_act), np.asarray(log_grad)


def test_signals_show_prediction_and_measurement_on_the_same_axes():
    predicted = theory.trajectory("tanh", depth=5, weight_var=1.5, bias_var=0.05, width=100)
    noise = np.random.default_rng(0).normal(0, 0.01, (7, 6))
    act = np.append(predicted.log_act, 0.0) + noise
    grad = np.append(predicted.log_grad, 9.0)[None] + 3.0 + 0 * noise
    picture = plots.signals(Measured(act, grad), predicted, title="tanh")
    forward, backward = picture.axes
    for ax, line in ((forward, predicted.log_act), (backward, predicted.log_grad)):
        drawn = next(each for each in ax.lines if each.get_label() == "theory, infinite width")
        np.testing.assert_allclose(drawn.get_ydata(), line / np.log(10), rtol=1e-12)
        assert len(ax.collections) >= 3  # the bands
    points = forward.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(points, act[:, :5].mean(0) / np.log(10), rtol=1e-12)
    # The gradient is relative to the last hidden layer, whatever its size.
    points = backward.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(points, predicted.log_grad / np.log(10), atol=1e-12)


@pytest.mark.bad_input
def test_signals_of_another_depth_are_refused():
    predicted = theory.trajectory("tanh", depth=5, weight_var=1.5)
    with pytest.raises(ValueError, match=r"got 4 measured layers .* theory for 5; use depth=3"):
        plots.signals(Measured(np.zeros(4), np.zeros(4)), predicted)


def test_a_phase_diagram_shows_the_edge_marks_and_measured_networks():
    grid = {"weight_var": [0.5, 1.5, 2.5, 4.0], "bias_var": [0.0, 0.2, 0.4]}
    result = theory.phase_diagram("tanh", **grid)
    measured = {"weight_var": [1.0, 3.0], "bias_var": [0.1, 0.1], "log_slope": [-0.3, 0.2]}
    picture = plots.phase_diagram(result, measured, marks={"He": (2.0, 0.0)})
    ax = picture.axes[0]
    edge = next(line for line in ax.lines if line.get_label() == "edge of chaos")
    at = np.interp(1.94765463, edge.get_xdata(), edge.get_ydata())
    assert at == pytest.approx(0.09, abs=2e-3)
    assert "measured networks" in [t.get_text() for t in picture.legends[0].get_texts()]
    assert "He" in [t.get_text() for t in ax.texts]


@pytest.mark.parametrize(("name", "label"), [
    ("relu", "edge of chaos: this point"),
    ("gelu", "edge of chaos, but lengths run away from it"),
])  # fmt: skip
def test_edges_that_are_points_or_unstable_are_drawn_as_such(name, label):
    result = theory.phase_diagram(name, weight_var=[1.0, 2.0, 3.0], bias_var=[0.0, 0.5])
    picture = plots.phase_diagram(result)
    assert label in [t.get_text() for t in picture.legends[0].get_texts()]


def test_marks_that_meet_share_a_label_and_none_is_lost():
    result = theory.phase_diagram("relu", weight_var=[2.5, 50.0, 100.0], bias_var=[0.0, 0.5])
    marks = {"Xavier": (1.0, 0.0), "He": (2.0, 0.0), "advised": (99.0, 0.0)}
    ax = plots.phase_diagram(result, marks=marks).axes[0]
    assert [t.get_text() for t in ax.texts] == ["Xavier, He", "advised"]
    assert not any(t.get_annotation_clip() for t in ax.texts)


def test_the_colour_bar_speaks_of_the_gradient_not_of_its_square():
    result = theory.phase_diagram("relu", weight_var=[1.0, 2.0, 4.0], bias_var=[0.0, 0.5])
    bar = plots.phase_diagram(result).axes[1]
    ticks = dict(zip([t.get_text() for t in bar.get_yticklabels()], bar.get_yticks(), strict=True))
    assert ticks["× 1"] == 0
    assert ticks["× 1.25"] == pytest.approx(2 * np.log(1.25))


def test_labels_of_contours_stand_inside_the_map():
    scale, depth = np.geomspace(0.1, 10, 30), np.array([2, 5, 10, 20, 50])
    ratio = np.log(scale)[None, :] * depth[:, None]
    _fig, axes = plots.figure(1)
    plots.gradient_map(axes[0][0], scale, depth, ratio, limit=12.0)
    labels = [t for t in axes[0][0].texts if t.get_text().startswith("$10^")]
    assert len(labels) >= 4
    assert all(3 < t.get_position()[1] < 40 for t in labels)


@pytest.mark.parametrize("lost", [slice(0, 2), slice(0, 6)])
def test_gradients_that_have_vanished_are_left_out_without_a_warning(lost):
    predicted = theory.trajectory("tanh", depth=5, weight_var=1.5, width=100)
    grad = np.zeros((3, 6))
    grad[:, lost] = -np.inf
    ax = plots.signals(Measured(np.zeros((3, 6)), grad), predicted).axes[1]
    drawn = ax.containers[0].lines[0].get_ydata()
    assert np.isfinite(drawn).sum() == (3 if lost.stop == 2 else 0)


@pytest.mark.bad_input
def test_pictures_say_what_they_are_made_of():
    predicted = theory.trajectory("tanh", depth=5, weight_var=1.5)
    with pytest.raises(TypeError, match=r"measured must be what jinit.layer_signals returns, got"):
        plots.signals(3.0, predicted)
    with pytest.raises(TypeError, match=r"theory must be what jinit.theory.trajectory returns"):
        plots.signals(predicted, Measured(np.zeros(6), np.zeros(6)))
    diagram = theory.phase_diagram("tanh", weight_var=[1.0, 2.0], bias_var=[0.0, 0.1])
    with pytest.raises(TypeError, match=r"theory must be what jinit.theory.phase_diagram returns"):
        plots.phase_diagram(predicted)
    with pytest.raises(ValueError, match=r"measured must hold .* got none for 'bias_var'"):
        plots.phase_diagram(diagram, {"weight_var": [1.0]})
    three = {"weight_var": [1.0, 2.0], "bias_var": [0.0], "log_slope": [0.0]}
    with pytest.raises(ValueError, match=r"each \[points\], got 2, 1, 1 of them"):
        plots.phase_diagram(diagram, three)
    with pytest.raises(ValueError, match="limit must be above 0, got 0"):
        plots.phase_diagram(diagram, limit=0.0)


def sweep_like(**sizes):
    import xarray as xr

    rng = np.random.default_rng(0)
    coords = {name: np.asarray(values) for name, values in sizes.items()}
    shape = [len(values) for values in coords.values()]
    return xr.Dataset(
        {
            "vector": ((*coords, "layer"), rng.normal(size=(*shape, 3))),
            "loss": (tuple(coords), rng.normal(size=shape)),
        },
        coords,
    )


def test_a_sweep_is_a_map_over_its_two_longest_axes():
    gain, depth = np.geomspace(0.1, 10, 7), [2, 5, 10]
    ds = sweep_like(scheme=["he", "xavier"], depth=depth, gain=gain, seed=[0, 1, 2])
    picture = plots.grid(ds)
    panels = picture.axes[:2]
    assert [ax.get_title(loc="left") for ax in panels] == ["scheme = he", "scheme = xavier"]
    for ax, scheme in zip(panels, ("he", "xavier"), strict=True):
        drawn = ax.collections[0].get_array()
        np.testing.assert_allclose(drawn, ds.loss.sel(scheme=scheme).median("seed"))
        assert ax.get_xscale() == "log"
    assert "median over 3 seeds" in picture.axes[-1].get_ylabel()


def test_natural_logarithms_of_a_sweep_are_drawn_as_powers_of_ten():
    ds = sweep_like(depth=[2, 5], gain=np.geomspace(0.1, 10, 7), seed=[0, 1, 2])
    ds = ds.rename(loss="log_ratio")
    panel, bar = plots.grid(ds, "log_ratio").axes
    drawn = panel.collections[0].get_array()
    np.testing.assert_allclose(drawn, ds.log_ratio.median("seed") / np.log(10))
    assert bar.get_ylabel() == "ratio (median over 3 seeds)"
    assert all(text.get_text().startswith("$10^{") for text in bar.get_yticklabels())
    (ax,) = plots.grid(ds.isel(depth=0), "log_ratio").axes
    assert all(text.get_text().startswith("$10^{") for text in ax.get_yticklabels())


def test_a_sweep_over_one_axis_is_lines():
    ds = sweep_like(lr=[0.1, 0.2, 0.3], seed=[0, 1])
    (ax,) = plots.grid(ds).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), ds.loss.median("seed"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lr", "loss")


@pytest.mark.bad_input
def test_sweeps_without_a_picture_say_why():
    ds = sweep_like(lr=[0.1, 0.2], seed=[0])
    with pytest.raises(ValueError, match=r"one number per network, got 'vector'; choose among 'lo"):
        plots.grid(ds, "vector")
    with pytest.raises(ValueError, match="a picture needs a numeric axis of two values or more"):
        plots.grid(sweep_like(scheme=["he"], seed=[0]))
    many = sweep_like(scheme=[f"s{i}" for i in range(13)], lr=[0.1, 0.2], seed=[0])
    with pytest.raises(ValueError, match="room for 12 panels, got 13 combinations of 'scheme'"):
        plots.grid(many)


def test_a_diagnosis_shows_every_layer_and_marks_what_is_odd():
    keys = jax.random.split(jax.random.key(0), 8)
    w = [jax.random.normal(k, (32, 32)) * np.sqrt(2 / 32).astype(np.float32) for k in keys]
    w[3] = 10 * w[3]

    def apply(w, x):
        for own in w:
            x = jax.nn.relu(x @ own)
        return x

    found = jinit.diagnose(apply, w, jax.random.normal(keys[0], (16, 32)))
    fig = plots.diagnosis(found)
    forward, backward, shares = fig.axes
    np.testing.assert_allclose(
        forward.lines[0].get_ydata(),
        np.array([row.log_pre for row in found.layers]) / np.log(10),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        backward.lines[0].get_ydata(),
        np.array([row.log_grad for row in found.layers]) / np.log(10),
        rtol=1e-6,
    )
    labels = shares.get_xticklabels()
    assert [label.get_text() for label in labels] == [row.layer for row in found.layers]
    bold = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
    assert bold == ["[3]"]
    assert fig.get_suptitle().replace("\n", " ") == found.verdict


def test_a_diagnosis_without_gradient_says_so():
    found = jinit.diagnose(lambda w, x: jax.lax.stop_gradient(x @ w), np.ones((4, 4), np.float32),
                           np.ones((2, 4), np.float32))  # fmt: skip
    _, backward = plots.diagnosis(found).axes
    assert [text.get_text() for text in backward.get_legend().get_texts()] == ["none, or no number"]


# --- the coordinate check ---------------------------------------------------------------------


def checked():
    import xarray as xr

    widths, seeds, steps, layers = [64, 128, 256], 2, [0, 1], ["in", "hidden", "out"]
    sizes = np.random.default_rng(0).uniform(1, 2, (3, 2, 2, 3))
    dims = ("width", "seed", "step", "layer")
    return xr.Dataset(
        {"size": (dims, sizes), "change": (dims, sizes * np.array([0, 1])[:, None])},
        {"width": widths, "seed": range(seeds), "step": steps, "layer": layers},
    )


def test_a_coordinate_check_has_a_panel_a_step_and_a_line_a_layer():
    ds = checked()
    fig = plots.coordinate_check(ds, title="muP")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["before training", "after 1 step"]
    for step, ax in enumerate(fig.axes):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        for line, layer in zip(ax.lines, ds.layer.values, strict=True):
            assert line.get_label() == layer
            np.testing.assert_array_equal(line.get_xdata(), ds.width)
            seen = ds["size"].sel(step=step, layer=layer).mean("seed")
            np.testing.assert_allclose(line.get_ydata(), seen)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(ds.layer.values)
    assert fig.get_suptitle() == "muP"


def test_a_coordinate_check_goes_where_it_is_told(ax):
    ds = checked()
    assert plots.coordinate_check(ds.sel(step=[1]), [ax], variable="change") is ax.figure
    assert len(ax.lines) == 3
    np.testing.assert_allclose(
        ax.lines[2].get_ydata(), ds.change.sel(step=1, layer="out").mean("seed")
    )


def test_what_diverged_is_left_out_of_a_coordinate_check(ax):
    ds = checked()
    ds["size"][1, :, 1, 0] = np.inf
    ds["size"][2, 0, 1, 0] = np.nan
    plots.coordinate_check(ds.sel(step=[1]), [ax])
    drawn = ax.lines[0].get_ydata()
    assert np.isnan(drawn[1])
    assert drawn[2] == pytest.approx(float(ds["size"][2, 1, 1, 0]))


@pytest.mark.bad_input
def test_a_coordinate_check_without_a_picture_says_why(ax):
    with pytest.raises(ValueError, match=r"variable must be 'size' or 'change'.*got 'sizes'"):
        plots.coordinate_check(checked(), variable="sizes")
    with pytest.raises(ValueError, match=r"one for each of the 2 steps with a size, got 1; choose"):
        plots.coordinate_check(checked(), [ax])
    with pytest.raises(ValueError, match="each of the 0 steps with a change, got none"):
        plots.coordinate_check(checked().sel(step=[0]), variable="change")


@pytest.mark.bad_input
@pytest.mark.parametrize("given", ["text", None, 3, np.ones((2, 2))])
@pytest.mark.parametrize(
    ("picture", "source"),
    [
        (plots.grid, "jinit.sweep"), (plots.fixed, "jinit.fix"),
        (plots.diagnosis, "jinit.diagnose"),
        (plots.coordinate_check, "jinit.models.coordinate_check"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_one_sentence(picture, source, given):
    with pytest.raises(TypeError, match=f"must be what {source} returns, got "):
        picture(given)


@pytest.mark.bad_input
def test_a_grid_without_seeds_says_how_to_add_one():
    dataset = xr.Dataset({"x": ("a", [1.0, 2.0])}, coords={"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"dimension 'seed'.*expand_dims\('seed'\)"):
        plots.grid(dataset)
    assert plots.grid(dataset.expand_dims(seed=[0])).axes


@pytest.mark.bad_input
def test_panels_name_the_argument_that_does_not_fit(ax):
    band = {"ax": ax, "x": [0, 1], "runs": np.ones((3, 2)), "label": "a", "color": "black"}
    ridges = {"ax": ax, "counts": np.ones((2, 3)), "edges": [0, 1, 2, 3], "color": "black"}
    values = np.outer([-1.0, 1.0], [1.0, 2.0, 3.0])
    area = {"ax": ax, "scale": [1, 2, 4], "depth": [2, 10], "log_ratio": values, "limit": 1.0}
    mistakes = [
        (plots.band, band | {"runs": np.ones((3, 4))}, "runs .* a column for each of the 2 x, got"),
        (plots.band, band | {"x": [0, np.nan]}, "x must be finite"),
        (plots.band, band | {"quantiles": (0.9, 0.1)}, "quantiles must ascend from 0 to 1"),
        (plots.band, band | {"colour": "red"}, "line cannot be drawn by matplotlib: .*'colour'"),
        (plots.band, band | {"color": "blak"}, "color must be one that matplotlib knows, .*'blak'"),
        (plots.histograms, ridges | {"edges": [0, 1, 2]}, r"edges must have shape .* \[4\], got"),
        (plots.histograms, ridges | {"edges": [0, 2, 1, 3]}, "edges must ascend"),
        (plots.histograms, ridges | {"counts": -np.ones((2, 3))}, "counts must be 0 or more"),
        (plots.histograms, ridges | {"notes": ["a"]}, "notes must be a text for each of the 2"),
        (plots.weights, {"ax": ax, "w": np.ones(3), "limit": 1.0}, "w must have shape"),
        (plots.weights, {"ax": ax, "w": values, "limit": 0}, "limit must be above 0"),
        (plots.gradient_map, area | {"scale": [1, 2]}, r"log_ratio must .* \[2, 2\], got \[2, 3\]"),
        (plots.gradient_map, area | {"depth": [10, 2]}, "depth must hold two .* ascending"),
        (plots.gradient_map, area | {"theory": [1, 2, 3]}, "theory must have shape"),
        (plots.gradient_map, area | {"marks": {"he": -1}}, "the mark 'he' must be above 0"),
        (plots.gradient_map, area | {"marks": [1.0]}, "marks must map labels to scales"),
        (plots.gradient_map, area | {"ax": None}, "ax must be an Axes of matplotlib"),
        (plots.figure, {"columns": 2, "width": 0}, "width must lie between 0 and 200 inches"),
        (plots.figure, {"columns": 2, "width_ratios": [1]}, "width_ratios cannot be drawn"),
        (plots.figure, {"columns": 2, "share_x": True}, "did you mean 'sharex'"),
        (plots.grid, {"dataset": sweep_like(lr=[1, 2], seed=[0]), "title": 3}, "title must be a"),
    ]  # fmt: skip
    for function, given, words in mistakes:
        with pytest.raises((ValueError, TypeError), match=words):
            function(**given)


def test_a_map_without_a_line_of_zeros_has_none(ax):
    plots.gradient_map(ax, [1.0, 2.0], [2, 10], np.full((2, 2), 0.3), limit=0.5, marks={"he": 1.5})
    assert not [line for line in ax.lines if line.get_linestyle() == "-"]
