"""The figures of Joint-DetNAS (Yao et al., CVPR 2021) on COCO, as it prints them: AP in points, multiply-adds in G, FPS on a V100."""

from collections.abc import Sequence

COCO_CLASSES = 80
NAMED = ("person", "toothbrush")  # the first and the last of them

# Table 1: base model and method to AP by the long side of the input.
TABLE1 = {
    ("R18-FPN", "standard"): {800: 34.3, 1333: 36.0},
    ("R18-FPN", "our ETP"): {800: 35.1, 1333: 36.1},
    ("R50-FPN", "standard"): {800: 38.4, 1333: 39.5},
    ("R50-FPN", "our ETP"): {800: 41.8, 1333: 42.4},
    ("R101-FPN", "standard"): {800: 39.7, 1333: 41.4},
    ("R101-FPN", "our ETP"): {800: 43.1, 1333: 44.1},
}
# Table 2: model and share of channels pruned to backbone multiply-adds and AP.
TABLE2 = {
    ("R50-FPN", 0.0): (84.1, 37.1), ("R50-FPN", 0.1): (74.4, 37.3), ("R50-FPN", 0.2): (70.0, 37.0), ("R50-FPN", 0.3): (65.8, 36.4),
    ("R101-FPN", 0.0): (160.2, 39.0), ("R101-FPN", 0.1): (140.9, 39.2), ("R101-FPN", 0.2): (125.7, 38.8), ("R101-FPN", 0.3): (112.5, 38.3),
}  # fmt: skip
# Table 3: student, teacher and method to AP. FGFI's and TAR's own figures are of other students and teachers.
TABLE3 = {
    ("R18-FPN", "R50-FPN", "plain"): 36.0,
    ("R18-FPN", "R50-FPN", "ours"): 38.1,
    ("R50-FPN", "R101-FPN", "plain"): 39.5,
    ("R50-FPN", "R101-FPN", "ours"): 41.6,
}
TABLE3_OTHERS = (("FGFI (its own figure)", "R50-half", "R50", 34.8), ("TAR (its own figure)", "R50", "R152+R101", 40.1))
# Table 4: base model and group to input size, multiply-adds, FPS, AP.
TABLE4 = {
    ("R18-FPN", "baseline"): ("1333x800", 160.5, 28.2, 36.0),
    ("R18-FPN", "ours"): ("1080x720", 117.3, 33.0, 38.5),
    ("R50-FPN", "baseline"): ("1333x800", 215.8, 20.5, 39.5),
    ("R50-FPN", "ours"): ("1080x720", 145.7, 25.4, 42.3),
    ("R101-FPN", "baseline"): ("1333x800", 295.7, 15.9, 41.4),
    ("R101-FPN", "ours"): ("1080x720", 153.9, 23.3, 43.9),
    ("X101-FPN", "baseline"): ("1333x800", 286.9, 13.2, 42.9),
    ("X101-FPN", "ours"): ("1333x800", 266.3, 14.0, 45.7),
}
# Table 5: method to backbone multiply-adds and AP, before pruning and distillation and after.
TABLE5: dict[str, tuple[float | None, float | None, float, float]] = {
    "prune-kd": (122.6, 39.0, 60.8, 42.1),
    "nas-prune-kd": (105.2, 39.9, 59.1, 41.8),
    "joint": (None, None, 58.9, 43.9),
}
# Table 7: method to multiply-adds, AP, searched architectures, GPU days; texts where it gives no number.
TABLE7 = {
    "random": ("-", "-", "50", "~1200"),
    "joint": ("145.7", "43.9", "100", "200"),
}
TABLE7_OTHERS = (
    ("Det-NAS", "289.4", "40.0", "1000", "70"),
    ("NAS-FPN (R50-7@256)", "281.3", "39.9", "10000", ">>500"),
    ("SP-NAS", "349.3", "41.7", "200", "200"),
)
NO_COCO = "The paper's figures are for COCO; this data is another, so they are left out."


def is_coco(classes: Sequence[str]) -> bool:
    """Tell whether a data set's classes are those of COCO, so that the paper's figures may stand beside ours."""
    return len(classes) == COCO_CLASSES and (classes[0], classes[-1]) == NAMED


def near(figures: dict[int, float], long_side: int) -> float | None:
    """Return the figure of the paper's input size that a canvas stands for: canvases are rounded up to multiples of 32."""
    return next((value for side, value in figures.items() if 0 <= long_side - side < 32), None)
