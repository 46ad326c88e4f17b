"""What to try next: a pure function of the history, the settings and the candidate's number."""

import hashlib
import random

from jdnas.search.history import History, Trial
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, SearchTask, Workshop, json_data


def training_seed(seed: int, number: int) -> int:
    """Return the 31-bit seed of a candidate's training."""
    return int.from_bytes(hashlib.sha256(f"train {seed} {number}".encode()).digest()[:4]) >> 1


def first_candidate(task: SearchTask, settings: SearchSettings) -> Candidate:
    """Return candidate 0, the base with the largest teacher (Joint-DetNAS, Algorithm 1, line 2)."""
    return Candidate(0, None, 0, "base", None, task.base, task.teacher, training_seed(settings.seed, 0))


def propose(history: History, number: int, settings: SearchSettings, workshop: Workshop) -> Candidate | None:
    """Return candidate `number`, an untried change of a pair of the top-k list; None when `settings.draws` draws find none.

    Joint-DetNAS, Algorithm 1, lines 5 to 13. The workshop's drawing methods get their randomness from here, so that equal arguments give
    equal proposals; the history, which also knows what is in flight, is only read.
    """
    rng = random.Random(f"propose {settings.seed} {number}")
    parents = history.top_k(settings.k)
    weights = [1.0 if settings.parent_choice == "uniform" else 1 / rank for rank in range(1, len(parents) + 1)]
    for _ in range(settings.draws):
        parent = rng.choices(parents, weights)[0]
        candidate = _draw(parent, number, history, rng, settings, workshop)
        if candidate is not None and not history.was_proposed(parent.number, candidate.action, candidate.teacher):
            return candidate
    return None


def _draw(
    parent: Trial, number: int, history: History, rng: random.Random, settings: SearchSettings, workshop: Workshop
) -> Candidate | None:  # fmt: skip
    seed, generation, known = training_seed(settings.seed, number), history.generation, len(history)
    if rng.random() < settings.student_probability:
        action = workshop.sample_action(parent.student, rng, generation)
        if action is None:
            return None
        action = json_data(action)
        return Candidate(number, parent.number, generation, "student", action, parent.student, parent.teacher, seed, parent.files, known)
    teacher = workshop.mutate_teacher(parent.teacher, rng)
    if teacher is None or teacher == parent.teacher:
        return None
    return Candidate(number, parent.number, generation, "teacher", None, parent.student, teacher, seed, parent.files, known)
