import numpy as np
import pytest

from sb3_asym.options import OptionState, advance_options, option_return


class Choices:
    """Stands in for the master: chooses the given options in turn, and remembers where."""

    def __init__(self, *options):
        self.options, self.due = list(options), []

    def __call__(self, due):
        self.due.append(due.tolist())
        return np.array([self.options.pop(0) for _ in range(np.count_nonzero(due))])


# --- the clock ---


def test_an_option_is_held_for_its_length():
    choose, state, held = Choices(1, 0, 1), None, []
    for _ in range(7):
        state = advance_options(state, None, 1, 3, choose)
        held.append((int(state.option[0]), int(state.steps_left[0])))
    assert held == [(1, 2), (1, 1), (1, 0), (0, 2), (0, 1), (0, 0), (1, 2)]


def test_each_env_has_its_own_clock():
    """The second env's episode starts over at the second step; from then on the envs choose at different steps."""
    choose, state, options = Choices(0, 1, 2, 3, 4), None, []
    for step in range(5):
        state = advance_options(state, np.array([False, step == 1]), 2, 3, choose)
        options.append(state.option.tolist())
    assert options == [[0, 1], [0, 2], [0, 2], [3, 2], [3, 4]]
    assert choose.due == [[True, True], [False, True], [True, False], [False, True]]


def test_an_option_of_one_step_is_chosen_anew_each_step():
    choose, state = Choices(0, 1, 0), None
    options = []
    for _ in range(3):
        state = advance_options(state, None, 1, 1, choose)
        options.append(int(state.option[0]))
    assert options == [0, 1, 0]


@pytest.mark.parametrize("episode_start", [None, [False, False], [True, False]])
@pytest.mark.parametrize("steps_left", [[0, 0], [2, 0], [2, 1]])
def test_the_clock_changes_nothing_that_was_passed_in(steps_left, episode_start):
    option, steps_left_array = np.array([0, 1]), np.array(steps_left)
    starts = None if episode_start is None else np.array(episode_start)
    new_state = advance_options((option, steps_left_array), starts, 2, 3, lambda due: np.full(due.sum(), 5))
    assert option.tolist() == [0, 1]
    assert steps_left_array.tolist() == steps_left
    assert starts is None or starts.tolist() == episode_start
    assert isinstance(new_state, OptionState)


def test_state_of_another_number_of_envs_is_refused():
    state = (np.zeros(3, dtype=int), np.ones(3, dtype=int))
    with pytest.raises(ValueError, match="3 rows but there are 2 envs: pass state=None"):
        advance_options(state, None, 2, 5, Choices())


# --- the return ---


def test_option_return_by_hand():
    rewards = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 99.0], [8.0, 99.0, 99.0]])
    returns, durations, discounts = option_return(rewards, np.array([3, 2, 1]), 0.5)
    assert returns == pytest.approx([1.0 + 0.5 * 2.0 + 0.25 * 4.0, 1.0 + 0.5 * 2.0, 8.0])
    assert durations == pytest.approx([1.75, 1.5, 1.0])
    assert discounts == pytest.approx([0.125, 0.25, 0.5])


def test_undiscounted_option_return_is_the_sum():
    returns, durations, discounts = option_return(np.array([[1.0, 2.0, 3.0]]), np.array([3]), 1.0)
    assert (returns.item(), durations.item(), discounts.item()) == (6.0, 3.0, 1.0)
