"""The difference between two architectures, in words."""

from jdnas.spec import DetectorSpec, Head, Stage

_HEAD_WORDS = {
    "kind": "Head kind",
    "width": "Box head width",
    "convs": "Box head convolutions",
    "fcs": "Fully connected layers of the box head",
    "cascade_mean": "Mean over box heads",
    "rpn_width": "Proposal network width",
    "rpn_convs": "Proposal network convolutions",
    "strides": "Strides of the levels",
    "anchor_sizes": "Anchor sizes",
    "anchor_ratios": "Anchor ratios",
    "candidates": "Candidates per level before NMS",
    "proposals": "Proposals per image",
    "detections": "Detections per image",
    "rpn_nms_iou": "NMS threshold of the proposals",
    "nms_iou": "NMS threshold of the detections",
    "score_threshold": "Score threshold",
}


def explain(spec_before: DetectorSpec, spec_after: DetectorSpec) -> list[str]:
    """Return one sentence per difference, from the input to the head; one sentence that says so if there is none."""
    lines: list[str] = []
    if spec_before.family != spec_after.family:
        lines.append(f"Backbone family: {spec_before.family} → {spec_after.family}.")
    if spec_before.stem != spec_after.stem:
        lines.append(f"Stem: {_change(spec_before.stem, spec_after.stem)} channels.")
    for index, (before, after) in enumerate(zip(spec_before.stages, spec_after.stages, strict=False), start=1):
        if before != after:
            lines.append(f"Stage {index}: {_stage(before, after)}.")
    if len(spec_before.stages) != len(spec_after.stages):
        lines.append(f"Number of stages: {len(spec_before.stages)} → {len(spec_after.stages)}.")
    if spec_before.tail != spec_after.tail:
        lines.append(f"Tail: {_optional(spec_before.tail)} → {_optional(spec_after.tail)}.")
    if (spec_before.deformable, spec_before.modulated) != (spec_after.deformable, spec_after.modulated):
        lines.append(f"Deformable stages: {_deformable(spec_before)} → {_deformable(spec_after)}.")
    if spec_before.neck != spec_after.neck:
        lines.append(f"Neck (FPN): {_change(spec_before.neck, spec_after.neck)} channels.")
    lines += _head(spec_before.head, spec_after.head)
    if spec_before.num_classes != spec_after.num_classes:
        lines.append(f"Classes: {spec_before.num_classes} → {spec_after.num_classes}.")
    return lines or ["The architecture is the same; only the weights differ."]


def _optional(width: int) -> str:
    return f"{width} channels" if width else "none"


def _deformable(spec: DetectorSpec) -> str:
    stages = ", ".join(str(index + 1) for index in spec.deformable)
    return f"{stages}{' (modulated)' * spec.modulated}" if stages else "none"


def width_range(widths: tuple[int, ...]) -> str:
    """Return `64` for equal widths, and `48–64` for a range."""
    return str(widths[0]) if min(widths) == max(widths) else f"{min(widths)}–{max(widths)}"


def _change(before: int, after: int) -> str:
    return f"{before} → {after} ({100 * (after - before) / before:+.0f} %)".replace("-", "−")


def _stage(before: Stage, after: Stage) -> str:
    parts = []
    if before.depth != after.depth:
        count = abs(after.depth - before.depth)
        more = "more" if after.depth > before.depth else "fewer"
        parts.append(f"{count} {'block' if count == 1 else 'blocks'} {more} ({before.depth} → {after.depth})")
    if before.width != after.width:
        parts.append(f"output width {_change(before.width, after.width)}")
    if set(before.inner) != set(after.inner):
        parts.append(_inner("inner widths", before.inner, after.inner))
    if before.squeeze and after.squeeze and set(before.squeeze) != set(after.squeeze):
        parts.append(_inner("squeeze widths", before.squeeze, after.squeeze))
    return "; ".join(parts) if parts else f"inner widths in another order ({', '.join(map(str, after.inner))})"


def _inner(what: str, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
    change = f"{100 * (mean_after - mean_before) / mean_before:+.0f} % on average".replace("-", "−")
    return f"{what} {width_range(before)} → {width_range(after)} ({change})"


def _head(before: Head, after: Head) -> list[str]:
    lines = []
    for name, words in _HEAD_WORDS.items():
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            lines.append(f"{words}: {_words(old)} → {_words(new)}.")
    return lines


def _words(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
