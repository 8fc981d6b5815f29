"""Pictures are drawn from what happened."""

import numpy as np
import pytest
from matplotlib.image import imread

from sb3_asym.evaluation import EpisodeRecord, EvaluationReport
from sb3_asym.evaluation.plotting import learning_curves, pareto_front, runs_of_options, switching, timeline


@pytest.fixture
def record():
    options = np.array([0, 0, 0, 1, 1, 0])
    frames = {step: np.full((10, 10, 3), 30 * step, dtype=np.uint8) for step in (1, 3, 5)}
    return EpisodeRecord(("small", "large"), options, np.arange(6.0), np.arange(12.0).reshape(6, 2), frames)


def test_stretches_of_one_option(record):
    assert runs_of_options(record.options) == [(0, 3, 0), (3, 5, 1), (5, 6, 0)]


def test_timeline_shows_rewards_strip_and_frames(record, tmp_path):
    figure = timeline(record, tmp_path / "new folder" / "timeline.png", title="An episode")
    frames, curve, strip = figure.axes[:3]
    assert len(frames.child_axes) == 3
    assert curve.lines[0].get_ydata().tolist() == [0, 1, 2, 3, 4, 5]
    assert [(patch.get_x(), patch.get_width()) for patch in strip.patches] == [(0, 3), (3, 2), (5, 1)]
    assert strip.patches[0].get_facecolor() == strip.patches[2].get_facecolor() != strip.patches[1].get_facecolor()
    assert imread(tmp_path / "new folder" / "timeline.png").std() > 0.01


def test_timeline_of_chosen_dimensions(record):
    curve = timeline(record, dimensions=[1], labels=["speed"]).axes[1]
    assert curve.lines[0].get_ydata().tolist() == [1, 3, 5, 7, 9, 11]
    assert curve.get_legend().get_texts()[0].get_text() == "speed"


def test_unknown_dimension(record):
    with pytest.raises(ValueError, match=r"dimensions go from 0 to 1, got \[2\]"):
        timeline(record, dimensions=[2])


def report(name, flops, reward, cost_coef=None, comparisons=()):
    use = {"small": 0.5, "large": 0.5}
    return EvaluationReport(name, reward, 0.0, 1, 9.0, use, flops, 0.0, 3.0, 1.0, (reward,), tuple(comparisons), cost_coef)


def test_switching_shows_the_dial_chance_each_alone_and_the_front():
    others = [
        report("small alone", 10.0, 0.0),
        report("large alone", 1000.0, 6.0),
        report("λ = 0.1", 800.0, 7.0, 0.1),
        report("random switching, as λ = 0.1", 790.0, 3.0),
        report("λ = 1", 100.0, 5.0, 1.0),
        report("random switching, as λ = 1", 90.0, 1.0),
    ]
    axes = switching(report("agent", 100.0, 5.0, comparisons=others), title="An agent").axes[0]
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
    assert lines["dial"] == ([100.0, 800.0], [5.0, 7.0])
    assert lines["random switching"] == ([90.0, 790.0], [1.0, 3.0])
    assert lines["Pareto front"] == ([10.0, 90.0, 100.0, 800.0], [0.0, 1.0, 5.0, 7.0])  # the large one alone is not on it
    assert [dots.get_label() for dots in axes.collections] == ["small alone", "large alone"]
    assert [dots.get_offsets().tolist() for dots in axes.collections] == [[[10.0, 0.0]], [[1000.0, 6.0]]]


def test_the_best_trials_are_joined():
    axes = pareto_front([(100.0, 5.0), (10.0, 1.0), (50.0, 0.0)], [True, True, False], {"small": (10.0, 0.5)}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [10.0, 100.0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 5.0]
    assert "small alone" in [dots.get_label() for dots in axes.collections]


def test_learning_curve_shows_mean_and_spread(tmp_path):
    figure = learning_curves({"agent": (np.array([10, 20]), np.array([[0.0, 2.0], [4.0, 4.0]]))}, tmp_path / "curve.png")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 3.0]
    assert len(figure.axes[0].collections) == 1
    assert (tmp_path / "curve.png").exists()
