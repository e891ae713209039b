"""The pictures of adversarial images, read back from the axes."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zeroth.records.pictures import adversarial_figure
from zeroth.records.plots import save_figure

RNG = np.random.default_rng(0)


def draw(count, channels, tmp_path, **options):
    clean = RNG.random((count, channels, 6, 5))
    changed = (clean + RNG.normal(0, 0.1, clean.shape)).clip(0, 1)
    numbers = range(count)
    figure = adversarial_figure(
        clean, changed, numbers, [k + 1 for k in numbers], [1000 * k + 1 for k in numbers], [0.25] * count, **options
    )
    save_figure(figure, tmp_path / "picture.png", dpi=40)
    return clean, changed, figure


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_grey_images_lie_above_each_other_with_their_numbers(tmp_path):
    clean, changed, figure = draw(3, 1, tmp_path, norm="linf")
    grid = np.array(figure.axes).reshape(3, 3)
    for k in range(3):
        np.testing.assert_array_equal(shown(grid[0, k]), clean[k, 0])
        np.testing.assert_array_equal(shown(grid[1, k]), changed[k, 0])
        delta = changed[k, 0] - clean[k, 0]
        np.testing.assert_allclose(shown(grid[2, k]), delta / np.abs(delta).max())
        assert grid[0, k].images[0].get_clim() == (0, 1)  # no stretching of contrast
        assert grid[2, k].images[0].get_clim() == (-1, 1)  # nothing changed is white
        assert grid[2, k].get_xlabel() == f"scale ±{np.abs(delta).max():.3g}"
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["original", "adversarial", "difference"]
    titles = [axes.get_title().split("\n") for axes in grid[0]]
    assert [title[0] for title in titles] == [r"0 $\to$ 1", r"1 $\to$ 2", r"2 $\to$ 3"]
    assert [title[1] for title in titles] == ["1 query", "1,001 queries", "2,001 queries"]
    assert {title[2] for title in titles} == {r"$\ell_\infty$ 0.25"}


def test_colour_images_keep_their_channels_and_bands_their_width(tmp_path):
    clean, changed, figure = draw(5, 3, tmp_path, per_row=3)
    first, second = np.array(figure.axes).reshape(2, 3, 3)
    np.testing.assert_array_equal(shown(first[0, 2]), clean[2].transpose(1, 2, 0))
    np.testing.assert_array_equal(shown(second[1, 1]), changed[4].transpose(1, 2, 0))
    difference = shown(second[2, 0])
    delta = (changed[3] - clean[3]).transpose(1, 2, 0)
    np.testing.assert_allclose(difference, 0.5 + delta / np.abs(delta).max() / 2)
    assert (difference.min(), difference.max()) in [
        (pytest.approx(0), difference.max()),
        (difference.min(), pytest.approx(1)),
    ]
    assert not any(axes.axison for axes in second[:, 2])


def test_long_class_names_do_not_run_into_each_other(tmp_path):
    names = ["automobile", "golden retriever of the north", "$cat$"]
    _, _, figure = draw(2, 1, tmp_path, class_names=names)
    titles = [axes.get_title().split("\n")[:2] for axes in figure.axes[:2]]
    assert titles[0] == ["automobile", r"$\to$ golden retrieve..."]
    assert titles[1] == ["golden retrieve...", r"$\to$ \$cat\$"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    left, right = (axes.title.get_window_extent(renderer) for axes in figure.axes[:2])
    assert left.x1 < right.x0


def test_an_unchanged_image_has_no_difference(tmp_path):
    image = np.full((1, 1, 4, 4), 0.5)
    figure = adversarial_figure(image, image, [1], [-1], [9], [0.0], class_names=["a", "b"])
    assert figure.axes[2].get_xlabel() == "none"
    assert not shown(figure.axes[2]).any()
    assert figure.axes[0].get_title().startswith(r"b $\to$ -1")
    save_figure(figure, tmp_path / "one.png", dpi=40)


@pytest.mark.parametrize(
    ("images", "labels", "per_row"),
    [((2, 2, 4, 4), 2, 8), ((2, 1, 4, 4), 3, 8), ((2, 4, 4), 2, 8), ((0, 1, 4, 4), 0, 8), ((2, 1, 4, 4), 2, 0)],
)
def test_images_that_cannot_be_shown_are_refused(images, labels, per_row):
    pixels, numbers = np.zeros(images), [0] * images[0]
    with pytest.raises(ValueError, match=r"images and adversarial must|need at least one image"):
        adversarial_figure(pixels, pixels, [0] * labels, numbers, numbers, numbers, per_row=per_row)
