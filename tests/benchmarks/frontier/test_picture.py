"""A tool's line joins the files that none of its others beats."""

from __future__ import annotations

from benchmarks.frontier.picture import frontier, frontier_figure


def test_frontier() -> None:
    points = [(90.0, 0.1, None), (50.0, 0.4, 0.1), (60.0, 0.5, 0.1), (50.0, 0.3, 0.1), (95.0, 0.1, None)]
    assert frontier(points) == [(50.0, 0.3, 0.1), (90.0, 0.1, None)]


def test_a_line_for_each_tool() -> None:
    figure = frontier_figure({"a": [(50.0, 0.3, 0.1), (60.0, 0.5, 0.1)], "b": [(40.0, 0.0, None)]}, 4, "Title")
    (panel,) = figure.axes
    legend = panel.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert panel.get_yscale() == "log"
