"""Actions on neck and heads, where deployment time goes: what each makes smaller. Not in the paper; off unless the rules say so.

Nothing here touches weights; `jdnas.student.inherit` applies an action to a detector.
"""

from dataclasses import replace
from typing import Literal, get_args

from jdnas.spec import DetectorSpec

HeadKind = Literal["prune_neck", "prune_box_head", "prune_rpn", "prune_proposals", "prune_candidates"]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)


def head_size(spec: DetectorSpec, kind: HeadKind) -> int:
    """Return the width or count that an action of `kind` makes smaller.

    The neck's width, the width of the box head's fully connected layers (its convolutions shrink alike), the RPN's width, the
    proposals per image that the box head looks at, or the candidates per level that suppression looks at.
    """
    head = spec.head
    return {
        "prune_neck": spec.neck, "prune_box_head": head.width, "prune_rpn": head.rpn_width,
        "prune_proposals": head.proposals, "prune_candidates": head.candidates,
    }[kind]  # fmt: skip


def with_head_size(spec: DetectorSpec, kind: HeadKind, size: int, *, step: int = 1) -> DetectorSpec:
    """Return `spec` with what `head_size` reads replaced; training keeps its own numbers of proposals and candidates.

    The widths of the box head's convolutions follow in proportion, in multiples of `step`.
    """
    if kind == "prune_neck":
        return replace(spec, neck=size)
    head = spec.head
    if kind == "prune_box_head":
        convs = tuple(min(width, max(step, round(width * size / head.width / step) * step)) for width in head.convs)
        return replace(spec, head=replace(head, width=size, convs=convs))
    if kind == "prune_rpn":
        return replace(spec, head=replace(head, rpn_width=size))
    if kind == "prune_proposals":
        return replace(spec, head=replace(head, proposals=size))
    return replace(spec, head=replace(head, candidates=size))
