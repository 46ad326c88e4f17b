"""What benchmarks beside torchvision's Faster R-CNN run."""

from dataclasses import dataclass

BACKBONES = {"r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101"}


@dataclass(frozen=True)
class Case:
    """What all sides run: a backbone, the canvas, and the images of a call or step."""

    base: str
    height: int
    width: int
    batch: int

    @staticmethod
    def parse(text: str) -> "Case":
        """Read `BASE:SIZE:BATCH` or `BASE:HEIGHTxWIDTH:BATCH`."""
        base, size, batch = text.split(":")
        height, _, width = size.partition("x")
        return Case(base, int(height), int(width or height), int(batch))

    def __str__(self) -> str:
        return f"{self.base}:{self.height}x{self.width}:{self.batch}"
