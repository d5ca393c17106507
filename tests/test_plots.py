"""Pictures hold what they were given."""

import numpy as np
import pytest

from jinit import plots


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


def test_phase_diagram_marks_schemes_on_log_axes(ax):
    scale, depth = np.geomspace(0.1, 10, 9), [2, 4, 8]
    values = np.log10(scale)[None] * np.array(depth)[:, None]
    mesh = plots.phase_diagram(ax, scale, depth, values, limit=5.0, marks={"Xavier": 1.0})
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "Xavier" in [t.get_text() for t in ax.texts]
    assert mesh.levels[0] == -5
    assert mesh.levels[-1] == 5


def test_weights_image_has_one_column_per_unit(ax):
    image = plots.weights(ax, np.ones((3, 5)), limit=2.0)
    assert image.get_array().shape == (3, 5)
    assert image.get_clim() == (-2.0, 2.0)
