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
        heads = "the backbone alone" if self.fresh else f"neck {spec.neck}, {spec.num_classes} classes"
        lines = [f"{self.file}: {self.origin}, {spec.family} {depths}, {heads}; {self.mapped} entries read"]
        lines += [f"  left out: {_grouped(self.dropped, 2)}"] if self.dropped else []
        lines += [f"  new, to be trained: {_grouped(self.fresh, 1)}"] if self.fresh else []
        lines += [f"  converted: {text}" for text in self.converted]
        lines += [f"  assumed: {text}" for text in self.assumed]
        return lines


def _grouped(names: Iterable[str], parts: int) -> str:
    """Count names by their first parts, but never by their last."""
    counts = Counter(".".join(name.split(".")[:-1][:parts]) or name for name in names)
    return ", ".join(f"{name} ({count} {'entry' if count == 1 else 'entries'})" for name, count in counts.items())
