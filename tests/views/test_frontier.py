"""The figure of resistance against what honest users can still learn: points, bounds, and labels that can be read."""

import itertools

import pytest

from trl_tar.views.frontier import box_of, plot_frontier


def estimate(mean, half=None) -> dict:
    if half is None:
        return {"mean": mean, "low": None, "high": None, "n": 1 if mean is not None else 0}
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 3}


# as close as the points of an ablation are: controls that fail alike, and trainings that hold alike
POINTS = {
    **{f"a control that fails, {i}": (estimate(0.99 + 0.01 * i, 0.05), estimate(1.0, 0.02)) for i in range(5)},
    **{f"fresh attacks of {i} steps": (estimate(0.9), estimate(0.6 + 0.01 * i)) for i in range(3)},
    **{f"continued attacks, variant {i}": (estimate(0.8 + 0.02 * i, 0.2), estimate(0.03, 0.4)) for i in range(8)},
}


@pytest.fixture(scope="module")
def figure():
    return plot_frontier(POINTS, "world 1")


def labels_of(figure):
    texts = [child for child in figure.axes[0].texts if child.get_text() in POINTS]
    assert [text.get_text() for text in texts] == list(POINTS)
    return texts


def test_labels_lie_within_the_axes_on_no_other_label_and_on_no_mark(figure):
    axes = figure.axes[0]
    boxes = [box_of(text) for text in labels_of(figure)]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    marks = [axes.transData.transform((x["mean"], y["mean"])) for x, y in POINTS.values()]
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
    room = axes.get_window_extent()
    assert all(room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1 for box in boxes)


def test_each_label_belongs_to_its_own_point(figure):
    for text in labels_of(figure):
        x, y = POINTS[text.get_text()]
        assert tuple(text.xy) == (x["mean"], y["mean"])


def test_marks_are_told_apart_and_intervals_and_gates_are_drawn(figure):
    axes = figure.axes[0]
    marks = [container.lines[0] for container in axes.containers]
    assert len({(mark.get_color(), mark.get_marker()) for mark in marks}) == len(POINTS)
    with_intervals = [container for container in axes.containers if container.has_xerr]
    assert len(with_intervals) == 13
    (segment,) = with_intervals[0].lines[2][0].get_segments()
    assert segment[:, 0] == pytest.approx([0.94, 1.04])
    ends = [(line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]
    assert any(list(x) == [0.9, 0.9] for x, _ in ends) and any(list(y) == [0.5, 0.5] for _, y in ends)
    assert axes.get_title() == "world 1" and "gates: at least 0.9, R below 0.5" in [t.get_text() for t in axes.texts]


def test_what_was_not_measured_is_named():
    axes = plot_frontier({"a": (estimate(0.5), estimate(0.5)), "b": (estimate(None), estimate(0.1))}).axes[0]
    assert "not measured: b" in axes.get_xlabel() and len(axes.containers) == 1
