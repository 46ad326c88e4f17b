"""What the course of a search says: the Pareto front, and which actions helped."""

from dataclasses import dataclass

from jdnas.report.inputs import Candidate, RunData

Gains = dict[str, list[tuple[Candidate, float]]]


@dataclass(frozen=True, slots=True)
class ActionRow:
    """How one action fared. Gains are in score H times 100 over the parent; None if no candidate of it was evaluated."""

    action: str
    tried: int
    evaluated: int
    helped: int
    mean_gain: float | None
    best_gain: float | None


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those (cost, quality) points that no other beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def gains_by_action(run: RunData) -> Gains:
    """Return, for every action, its evaluated candidates with their gain in score H times 100 over their parents."""
    by_number = {c.number: c for c in run.candidates}
    gains: Gains = {}
    for c in run.candidates:
        parent = by_number.get(c.parent) if c.parent is not None else None
        if c.state == "evaluated" and c.score is not None and parent is not None and parent.score is not None:
            gains.setdefault(c.action, []).append((c, 100 * (c.score - parent.score)))
    return gains


def action_rows(run: RunData) -> list[ActionRow]:
    """Return one row per action, the one that helped most often first."""
    gains, rows = gains_by_action(run), []
    for action in dict.fromkeys(c.action for c in run.candidates if c.parent is not None):
        values = [gain for _, gain in gains.get(action, [])]
        rows.append(
            ActionRow(
                action=action,
                tried=sum(c.action == action for c in run.candidates),
                evaluated=len(values),
                helped=sum(v > 0 for v in values),
                mean_gain=sum(values) / len(values) if values else None,
                best_gain=max(values, default=None),
            )
        )
    return sorted(rows, key=lambda r: (-r.helped, -(r.best_gain or -float("inf"))))
