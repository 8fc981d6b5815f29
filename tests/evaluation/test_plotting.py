"""Pictures are drawn from what happened."""

import numpy as np
import pytest
from matplotlib.image import imread

from sb3_asym.evaluation import EpisodeRecord
from sb3_asym.evaluation.plotting import learning_curves, runs_of_options, timeline


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


def test_learning_curve_shows_mean_and_spread(tmp_path):
    figure = learning_curves({"agent": (np.array([10, 20]), np.array([[0.0, 2.0], [4.0, 4.0]]))}, tmp_path / "curve.png")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 3.0]
    assert len(figure.axes[0].collections) == 1
    assert (tmp_path / "curve.png").exists()
