"""The state of an unfinished training on disk: all that a later process needs to go on to the same result, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.weights import State
from jdnas.training.average import Average
from jdnas.training.checkpoint import load_tensors, save_tensors


@dataclass(frozen=True)
class Resume:
    """Where to keep the state of an unfinished training, how often, and a text that tells this training from others at that path."""

    path: Path
    seconds: float = 20.0
    identity: str = ""


@dataclass
class FitReport:
    """What a training did.

    Optimizer steps, images seen, skipped non-finite steps, seconds, and the loss every few steps; `scores`: (step, validation AP) where
    the training was watched, and whether it stopped early, with the weights of its best score.
    """

    steps: int = 0
    images: int = 0
    skipped: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False


@dataclass
class Training:
    """Everything of a training that changes: weights, optimizer, average, the best weights so far, and the report."""

    state: State
    optimizer: torch.optim.Optimizer
    average: Average | None
    best: State
    report: FitReport

    def save(self, resume: Resume) -> None:
        """Write it all, atomically."""
        report, tensors = self.report, {f"state.{name}": tensor for name, tensor in self.state.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items() if isinstance(value, Tensor)}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors["progress"] = torch.tensor([report.steps, report.images, report.skipped, report.stopped_early])
        tensors["seconds"] = torch.tensor(report.seconds, dtype=torch.float64)
        for name in ("curve", "scores"):
            tensors[name] = torch.tensor(getattr(report, name), dtype=torch.float64).reshape(-1, 2)
        tensors["identity"] = _bytes_of(resume.identity)
        save_tensors(resume.path, tensors)

    @torch.no_grad()
    def load(self, resume: Resume) -> None:
        """Go back to what was written, or stay where that is of a training with another identity, which is begun anew.

        A CheckpointError says when it does not fit although it claims to be of this training.
        """
        path, saved = resume.path, load_tensors(resume.path)
        if not torch.equal(saved.get("identity", _bytes_of("")), _bytes_of(resume.identity)):
            return
        try:
            for name, tensor in self.state.items():
                tensor.copy_(saved[f"state.{name}"])
            if self.average is not None:
                for name, tensor in self.average.tensors.items():
                    tensor.copy_(saved[f"average.{name}"])
            self.report = _report_of(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} belongs to another training ({error}); delete it to start this step anew") from error
        device = next(iter(self.state.values())).device
        self.best = {name.removeprefix("best."): tensor.to(device) for name, tensor in saved.items() if name.startswith("best.")}
        self._load_optimizer(saved)

    def _load_optimizer(self, saved: State) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                entries.setdefault(int(index), {})[key] = tensor
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for place, values in entries.items():  # fused optimizers go through memory in order, so layouts have to agree
            for key, value in values.items():
                if value.shape == parameters[place].shape:
                    values[key] = torch.empty_like(parameters[place], requires_grad=False).copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _bytes_of(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _report_of(saved: State) -> FitReport:
    steps, images, skipped, stopped = (int(value) for value in saved["progress"])
    curve, scores = ([(int(row[0]), float(row[1])) for row in saved[name]] for name in ("curve", "scores"))
    return FitReport(steps, images, skipped, float(saved["seconds"]), curve, scores, bool(stopped))
