import copy
import random
import sys
from collections import Counter
from dataclasses import replace

import pytest

from jdnas.search.history import History, Trial
from jdnas.search.propose import first_candidate, propose, training_seed
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import ActionData, Candidate
from jdnas.spec import DetectorSpec
from tests.search.simulated import TASK, Simulator, resnet, trial


@pytest.fixture
def history() -> History:
    return History([trial(0, 0.3)] + [trial(n, 0.3 + 0.01 * n, parent=0) for n in range(1, 8)])


def proposals(history: History, settings: SearchSettings, count: int = 400) -> list[Candidate]:
    found = [propose(history, number, settings, Simulator()) for number in range(8, 8 + count)]
    return [candidate for candidate in found if candidate is not None]


def test_pure(history: History) -> None:
    settings = SearchSettings(seed=5)
    before = copy.deepcopy(history)
    first = proposals(history, settings, 50)
    random.seed(1)
    assert proposals(history, settings, 50) == first
    assert proposals(History(before), settings, 50) == first
    assert list(history) == list(before)
    assert proposals(history, settings.model_copy(update={"seed": 6}), 50) != first
    assert len({(c.parent, str(c.action), c.teacher) for c in first}) > 20  # the number matters


def test_first_is_the_base_with_the_largest_teacher() -> None:
    first = first_candidate(TASK, SearchSettings(seed=5))
    assert (first.number, first.parent, first.choice, first.change) == (0, None, "base", "base")
    assert (first.origin, first.teacher) == (TASK.base, TASK.teacher)


def test_parents_come_from_the_list_and_change_one_side(history: History) -> None:
    settings = SearchSettings(k=3)
    for candidate in proposals(history, settings):
        assert candidate.parent in {7, 6, 5}
        parent = history[candidate.parent]
        assert candidate.origin == parent.student and candidate.parent_files == parent.files
        assert (candidate.choice == "student") == (candidate.teacher == parent.teacher) == (candidate.action is not None)


def test_shares(history: History) -> None:
    found = proposals(history, SearchSettings(k=2, student_probability=0.7), 1000)
    shares = Counter(candidate.choice for candidate in found)
    assert 0.7 < shares["student"] / len(found) < 0.85  # more than 0.7: a third of the mutations change nothing and are drawn anew
    parents = Counter(candidate.parent for candidate in found)
    assert 0.45 < parents[7] / len(found) < 0.55
    ranked = Counter(candidate.parent for candidate in proposals(history, SearchSettings(k=2, parent_choice="rank"), 1000))
    assert 0.61 < ranked[7] / ranked.total() < 0.72  # 1 : 1/2


def test_only_student_or_only_teacher(history: History) -> None:
    assert {c.choice for c in proposals(history, SearchSettings(student_probability=1.0))} == {"student"}
    assert {c.choice for c in proposals(history, SearchSettings(student_probability=0.0))} == {"teacher"}


class Narrow(Simulator):
    """Two actions in all, no mutation."""

    def sample_action(self, spec: DetectorSpec, rng: random.Random, generation: int) -> ActionData | None:
        return rng.choice([None, {"kind": "a"}, {"kind": "b"}])

    def mutate_teacher(self, teacher: DetectorSpec, rng: random.Random) -> DetectorSpec | None:
        return rng.choice([None, teacher])


@pytest.mark.parametrize("state", ["complete", "refused", "failed"])
def test_never_repeats_and_ends_exhausted(state: str) -> None:
    history, seen = History([trial(0, 0.3)]), []
    for number in range(1, 10):
        candidate = propose(history, number, SearchSettings(k=1), Narrow())
        if candidate is None:
            break
        seen.append((candidate.parent, candidate.change))
        result = Trial(candidate, "complete", resnet(9), {"1x1": 1.0}, {"1x1": {"ap": 0.1}}, "1x1", 0.1, 1.0, 0.1)
        history.add(result if state == "complete" else replace(result, state=state, score=None))
    assert sorted(seen) == [(0, "a"), (0, "b")]


def test_actions_are_json_data(history: History) -> None:
    actions = [candidate.action for candidate in proposals(history, SearchSettings(student_probability=1.0), 10)]
    assert all(isinstance(action["at"], list) for action in actions if action)  # drawn as a tuple


def test_training_seeds_differ() -> None:
    seeds = {training_seed(seed, number) for seed in range(30) for number in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2**31 for seed in seeds)


def test_a_proposal_asks_the_same_of_a_long_history(history: History) -> None:
    """However many candidates there are beside the list, as many functions are called."""

    def calls(trials: list[Trial]) -> int:
        known, count = History(trials), 0

        def note(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(note)
        try:
            assert propose(known, 5000, SearchSettings(k=3, seed=2), Simulator()) is not None
        finally:
            sys.setprofile(None)
        return count

    worse = [trial(n, 0.1 + 1e-6 * n, parent=0, kind="x") for n in range(8, 3000)]
    assert 0 < calls([*history, *worse]) == calls(list(history))
