"""What came out of reading a foreign weight file, in lines for people."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from jdnas.spec import DetectorSpec


@dataclass(frozen=True)
class ImportReport:
    """`mapped` entries found their place, `dropped` belong to other tasks, `fresh` ones the file lacks and training has to fill in.

    `converted`: what was changed so that the function stays; `assumed`: what the file does not say.
    """

    file: str
    origin: str
    spec: DetectorSpec
    mapped: int
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report, the most important line first."""
        spec = self.spec
        depths = "-".join(map(str, spec.depths))
        lines = [
            f"{self.file}: {self.origin}, {spec.family} {depths}, neck {spec.neck}, {spec.num_classes} classes; {self.mapped} entries read"
        ]
        lines += [f"  left out: {text}" for text in _grouped(self.dropped)]
        lines += [f"  new, to be trained: {text}" for text in _grouped(self.fresh)]
        lines += [f"  converted: {text}" for text in self.converted]
        lines += [f"  assumed: {text}" for text in self.assumed]
        return lines


def _grouped(names: Iterable[str]) -> list[str]:
    """Count names by their first two parts."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return [f"{name} ({count} entries)" for name, count in counts.items()]
