"""The exception tree.

JdnasError                    exit code 1
├── InputError                exit code 2: something the user gave is wrong
│   ├── ConfigError           settings, names, presets
│   ├── DataError             data sets and images
│   ├── CheckpointError       weight files and run folders
│   ├── TargetError           devices, runtimes, latency tables
│   └── MissingExtraError     an optional dependency is not installed
├── TrainingError             training diverged or could not go on
├── GoalMissedError           exit code 3: all was done, and nothing that was found meets the goal
└── ParityError               an exported artifact differs from PyTorch
"""

from collections.abc import Iterable


class JdnasError(Exception):
    """Root of all errors that jdnas raises on purpose; the message is one line that says what to do next."""

    exit_code = 1


class InputError(JdnasError):
    """What the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A setting, name or preset is unknown or contradictory."""


class DataError(InputError):
    """A data set is missing, empty or malformed."""


class CheckpointError(InputError):
    """A weight file or run folder is missing, truncated or does not fit."""


class TargetError(InputError):
    """A device, runtime or latency table is unknown or unusable."""


class MissingExtraError(InputError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"package {package!r} is not installed; install it with: pip install 'jdnas[{extra}]'")
        self._named = package, extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:  # it travels between processes
        return MissingExtraError, self._named


class TrainingError(JdnasError):
    """Training cannot go on, for instance because the loss stays non-finite."""


class GoalMissedError(JdnasError):
    """A search ended, and nothing that it found is within `--max-latency-ms` or reaches `--min-ap`; what comes closest is there."""

    exit_code = 3


class ParityError(JdnasError):
    """An exported artifact does not reproduce the PyTorch detector."""


def unknown_name(kind: str, got: str, known: Iterable[str], next_step: str = "") -> str:
    """Compose the message for a name that is not in a closed list."""
    message = f"unknown {kind} {got!r}; known: {', '.join(sorted(known))}"
    return f"{message}. {next_step}" if next_step else message
