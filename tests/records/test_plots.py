"""What is drawn, read back from the axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.records.examples import certificate, found, lost
from zeroth.records import certified_accuracy, robust_accuracy_vs_epsilon
from zeroth.records.plots import (
    certified_accuracy_figure,
    distortion_figure,
    line_styles,
    robust_accuracy_figure,
    save_figure,
    success_figure,
)
from zeroth.records.rows import to_frame

ATTACKS = to_frame(
    "attack",
    [
        lost(0, 1, "misclassified", predicted=5),
        found(1, 30, l2=0.4),
        found(2, 10, l2=0.1),
        found(3, 10, l2=0.2),
        lost(4, 200),
    ],
)
HARD = to_frame("attack", [lost(0, 150), lost(1, 150)])
CERTIFICATES = to_frame(
    "certificate",
    [certificate(0, 0.5), certificate(1, 0.25), certificate(2, 0.25), certificate(3, 0.9, predict=4)],
)


def line(figure, number=0):
    """Points of a line and its label."""
    drawn = figure.axes[0].lines[number]
    return drawn.get_xdata().tolist(), drawn.get_ydata().tolist(), drawn.get_label()


def legend(figure):
    box = figure.axes[0].get_legend() or figure.legends[0]  # a long one stands beside the axes
    return [text.get_text() for text in box.get_texts()]


def band(figure, number=0):
    """Lowest and highest edge of a band at each x that it has a corner at."""
    corners = figure.axes[0].collections[number].get_paths()[0].vertices
    return {x: (corners[corners[:, 0] == x, 1].min(), corners[corners[:, 0] == x, 1].max()) for x in corners[:, 0]}


def test_success_steps_up_at_each_success_over_the_attacked_images():
    figure = success_figure({"zo_ngd": ATTACKS, "_hard": HARD}, budget=1000)
    x, y, _ = line(figure)
    assert (x, y) == ([1, 10, 10, 30, 1000], [0, 0.25, 0.5, 0.75, 0.75])
    assert figure.axes[0].lines[0].get_drawstyle() == "steps-post"
    assert line(figure, 1)[:2] == ([1, 1000], [0, 0])
    assert legend(figure) == ["zo_ngd (n = 4)", "hard (n = 2)"]
    assert figure.axes[0].get_xlim() == (5, 1000)  # the round number before the first success
    assert figure.axes[0].get_xscale() == "log"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("queries per image", "attack success rate")


def test_runs_of_as_many_images_tell_so_once():
    figure = success_figure({"a": ATTACKS, "b": ATTACKS})
    assert legend(figure) == ["a", "b"]
    assert figure.axes[0].get_ylabel() == "attack success rate (n = 4)"


def test_nothing_found_is_a_line_from_the_first_query_on():
    assert success_figure({"hard": HARD}).axes[0].get_xlim() == (1, 150)


def test_runs_that_share_a_method_share_a_colour():
    names = [f"{method}, {wins}" for method in "abcdefg" for wins in ("iterates", "all")]
    styles = dict(zip(names, line_styles(names), strict=True))
    for wins in ("iterates", "all"):
        assert len({styles[f"{method}, {wins}"]["color"] for method in "abcdefg"}) == 7
        assert len({str(styles[f"{method}, {wins}"]["linestyle"]) for method in "abcdefg"}) == 1
    assert all(styles[f"{m}, all"]["color"] == styles[f"{m}, iterates"]["color"] for m in "abcdefg")
    assert styles["a, all"]["linestyle"] != styles["a, iterates"]["linestyle"]


@pytest.mark.parametrize(
    "names",
    [
        ["a, all", "b, all"],
        ["a", "b, all", "b, iterates"],
        [f"{n}, {m}" for n in range(8) for m in "ab"],
        [str(n) for n in range(28)],
    ],
)
def test_runs_that_share_no_method_have_a_style_each(names):
    styles = [str(style) for style in line_styles(names)]
    assert len(set(styles)) == len(names)
    assert len({style["color"] for style in line_styles(names)}) == min(len(names), 7)


def test_success_ends_at_the_most_that_was_spent():
    assert line(success_figure({"a": ATTACKS, "b": HARD}))[0][-1] == 200
    assert line(success_figure({"a": ATTACKS}, budget=20))[:2] == ([1, 10, 10, 20], [0, 0.25, 0.5, 0.5])


def test_distortion_is_the_median_with_quartiles():
    distances = np.array([[1.0, 2, 3, 4, 5], [0.5, 1, 1.5, 2, 2.5]])
    figure = distortion_figure({"a": ([400, 100], distances[::-1])}, distance="l2")
    assert line(figure)[:2] == ([100, 400], [3, 1.5])
    assert figure.axes[0].get_xlim() == (50, 400)
    edges = band(figure)
    assert edges[100] == (2, 4)
    assert edges[400] == (1, 2)
    assert legend(figure) == ["a (n = 5)"]
    assert "ell_2" in figure.axes[0].get_ylabel()
    own = distortion_figure({"a": ([400, 100], distances)}, distance="elastic-net")
    assert own.axes[0].get_ylabel().startswith("elastic-net distance")


def test_distances_of_several_sizes_stand_on_a_log_axis():
    axes = distortion_figure({"a": ([1, 100], [[16.0, 20.0, 24.0], [1.0, 2.0, 3.0]])}).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == pytest.approx((0.95 * 1.5, 1.05 * 22))  # of the quartiles
    near = distortion_figure({"a": ([1, 100], [[16.0, 20.0, 24.0], [2.0, 3.0, 4.0]])}).axes[0]
    assert near.get_yscale() == "linear" and near.get_ylim()[0] == 0


def test_an_image_without_a_point_is_at_infinity():
    inf = np.inf
    distances = [[inf, inf, inf, inf, inf], [inf, inf, inf, 2, 1], [inf, inf, 3, 2, 1], [4, 4, 3, 2, 1]]
    figure = distortion_figure({"a": ([1, 2, 4, 8], distances)})
    x, y, _ = line(figure)
    assert x == [1, 2, 4, 8]
    assert figure.axes[0].get_xlim() == (1, 8)  # a quartile is known from 2 on
    assert np.isnan(y[:2]).all()
    assert y[2:] == [3, 3]
    top = figure.axes[0].get_ylim()[1]
    assert top == pytest.approx(1.05 * 4)  # the largest finite quartile
    edges = band(figure)
    assert edges[2][0] == edges[4][0] == 2
    assert edges[2][1] > top and edges[4][1] > top  # out of the picture
    assert edges[8] == (2, 4)
    # an even number whose middle pair is half infinite has no finite median
    assert np.isnan(line(distortion_figure({"a": ([1], [[1, inf]])}))[1][0])


@pytest.mark.parametrize(
    "curve", [([1, 2], [[1.0]]), ([1], [[np.nan]]), ([1], [1.0]), ([1], [[]])], ids=["marks", "nan", "flat", "empty"]
)
def test_distances_that_do_not_fit_are_refused(curve):
    with pytest.raises(ValueError, match=r"^run a: marks must be \(M,\) and distances \(M, B\)"):
        distortion_figure({"run a": curve})


def test_certified_accuracy_falls_just_behind_each_radius():
    figure = certified_accuracy_figure({"a": CERTIFICATES, "b": CERTIFICATES.iloc[:1]}, max_radius=1)
    x, y, _ = line(figure)
    assert (x, y) == ([0, 0.25, 0.5, 1], [0.75, 0.75, 0.25, 0])
    assert figure.axes[0].lines[0].get_drawstyle() == "steps-pre"
    assert line(figure, 1)[:2] == ([0, 0.5, 1], [1, 1, 0])
    low, high = (certified_accuracy(CERTIFICATES, x)[side] for side in ("low", "high"))
    edges = band(figure)
    assert edges[0] == pytest.approx((low[0], high[0]))
    assert edges[1] == pytest.approx((low[3], high[3]))
    assert edges[0.5][0] == pytest.approx(low[3])  # a vertical edge there, from the step's own bound to the next
    assert edges[0.5][1] == pytest.approx(high[2])
    assert legend(figure) == ["a (n = 4)", "b (n = 1)"]


def test_certified_accuracy_shows_every_radius():
    assert certified_accuracy_figure({"a": CERTIFICATES}).axes[0].get_xlim() == pytest.approx((0, 1.05 * 0.9))


def test_robust_accuracy_against_size():
    grid = [0.0, 0.1, 0.3, 0.5]
    figure = robust_accuracy_figure({"a": ATTACKS}, norm="l2", grid=grid)
    assert line(figure)[:2] == (grid, [0.8, 0.6, 0.4, 0.2])
    curve = robust_accuracy_vs_epsilon(ATTACKS, "l2", grid)
    edges = band(figure)
    assert [edges[x][0] for x in grid] == pytest.approx(curve["low"])
    # A step's own bound holds up to the next size, where the edge falls.
    assert [edges[x][1] for x in grid] == pytest.approx([curve["high"][0], *curve["high"][:-1]])
    assert figure.axes[0].lines[0].get_drawstyle() == "steps-post"
    assert legend(figure) == ["a (n = 5)"]
    x, y, _ = line(robust_accuracy_figure({"a": ATTACKS}, norm="linf"))
    assert (x[0], x[-1], len(x)) == (0, pytest.approx(1.05 * 0.1), 211)
    assert y[-1] == 0.2


def test_runs_are_told_apart_and_names_are_text(tmp_path):
    figure = success_figure({f"${k}$ run {k}": ATTACKS for k in range(9)})
    styles = {(drawn.get_color(), str(drawn._dash_pattern)) for drawn in figure.axes[0].lines}
    assert len(styles) == 9
    assert legend(figure)[0] == r"\$0\$ run 0"
    save_figure(figure, tmp_path / "new" / "plot.png", dpi=50)
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.height == 180


@pytest.mark.parametrize(
    "make",
    [
        lambda: success_figure({"a": ATTACKS.iloc[:0]}),
        lambda: success_figure({}),
        lambda: distortion_figure({"a": ([5], [[np.inf, np.inf]])}),
        lambda: distortion_figure({}),
        lambda: certified_accuracy_figure({"a": CERTIFICATES.iloc[:0]}),
        lambda: robust_accuracy_figure({"a": HARD}, norm="l0"),
        lambda: robust_accuracy_figure({"a": ATTACKS.iloc[:0]}),
    ],
)
def test_runs_without_anything_to_show_still_save(make, tmp_path):
    figure = make()
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_xlim()[0] < figure.axes[0].get_xlim()[1]
    save_figure(figure, tmp_path / "plot.png", dpi=40)
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_legend_too_long_for_a_corner_stands_beside_the_axes():
    few, many = (success_figure({f"run {k}": ATTACKS for k in range(n)}) for n in (3, 4))
    assert few.legends == []
    assert len(legend(few)) == 3
    assert many.axes[0].get_legend() is None
    assert legend(many) == [f"run {k}" for k in range(4)]
    for figure in (few, many):
        figure.draw_without_rendering()
    box = many.legends[0].get_window_extent()
    assert box.x0 > many.axes[0].get_window_extent().x1
    assert box.x1 <= many.bbox.x1
    assert many.axes[0].get_window_extent().width > 0.9 * few.axes[0].get_window_extent().width


def test_a_saved_picture_holds_its_texts_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.png"
    for told in ("one", "two"):
        save_figure(success_figure({"a": ATTACKS}), path, metadata={"Drawn from": told})
    with Image.open(path) as image:
        assert image.info["Drawn from"] == "two"
    assert list(path.parent.iterdir()) == [path]
