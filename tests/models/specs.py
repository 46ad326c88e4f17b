"""Random small detectors for property tests."""

from dataclasses import replace
from math import prod

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jdnas.models.detector import Detector, build, call_with
from jdnas.models.weights import State, meta_detector
from jdnas.spec import FAMILIES, DetectorSpec, Head, Stage

SIZE_HW = (64, 96)
TINY_HEAD = Head(
    width=12, rpn_width=6, anchor_sizes=(8, 16, 32, 64, 128), candidates=20, proposals=8, train_candidates=20, train_proposals=12,
    detections=6, roi_samples=8, anchor_samples=16,
)  # fmt: skip
# Without shrinking: the specs are small already, and an example costs a few tenths of a second.
QUICK = settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])


def tie(spec: DetectorSpec, stages: list[Stage], stem: int) -> DetectorSpec:
    """Return `spec` with other backbone widths, made to obey the family's ties."""
    return spec.with_stages(tuple(stages), stem=stem)


def plain_stage(family: str, index: int, width: int = 4, depth: int = 2) -> Stage:
    """Return a stage of any family all of whose widths are `width`, inner ones in whole groups."""
    traits = FAMILIES[family]
    group = traits.group_widths[index] or 1
    return Stage(width, (-(-width // group) * group,) * depth, (width,) * depth if traits.squeezed[index] else ())


def plain_spec(family: str, width: int = 4, depth: int = 2, tail: int = 0) -> DetectorSpec:
    """Return a spec whose backbone widths and depths are all the same."""
    stages = tuple(plain_stage(family, index, width, depth) for index in range(len(FAMILIES[family].strides)))
    return DetectorSpec(family, width, stages, 2, neck=6, head=TINY_HEAD, tail=tail)


@st.composite
def stages_of(draw: st.DrawFn, family: str, widths: tuple[int, ...], max_depth: int) -> list[Stage]:
    """Draw the stages of a family, all widths independent of each other; inner widths of groups are one or two groups."""
    traits, width, stages = FAMILIES[family], st.sampled_from(widths), []
    for index, group in enumerate(traits.group_widths):
        inner = st.sampled_from((group, 2 * group)) if group else width
        depth = draw(st.integers(1, max_depth))
        squeeze = [draw(width) for _ in range(depth)] if traits.squeezed[index] else []
        stages.append(Stage(draw(width), tuple(draw(inner) for _ in range(depth)), tuple(squeeze)))
    return stages


@st.composite
def heads(draw: st.DrawFn, widths: tuple[int, ...]) -> Head:
    """Draw a head of any kind: cascade or not, with convolutions, deeper RPN, more anchors or other levels."""
    width = st.sampled_from(widths)
    head = replace(TINY_HEAD, width=draw(st.sampled_from((6, 12))), rpn_width=draw(width), kind=draw(st.sampled_from(("rcnn", "cascade"))))
    if draw(st.booleans()):
        return head
    levels = draw(st.sampled_from(((4, 8, 16, 32, 64), (32, 32, 64), (8, 16, 32, 64, 128))))
    return replace(
        head, strides=levels, anchor_sizes=levels, anchor_scales=(1.0, 2.0), rpn_convs=2, convs=(draw(width), draw(width)),
        fcs=draw(st.sampled_from((1, 2))), roi_aligned=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def specs(
    draw: st.DrawFn, *, widths: tuple[int, ...] = (2, 4, 6, 8), max_depth: int = 3, families: tuple[str, ...] = tuple(sorted(FAMILIES))
) -> DetectorSpec:
    """Draw a spec of one of `families` whose widths and depths are independent of each other, with any extras that the family takes."""
    family = draw(st.sampled_from(families))
    traits, width = FAMILIES[family], st.sampled_from(widths)
    deepest = min(max_depth, 2) if traits.block == "mbconv" or any(traits.group_widths) else max_depth
    spec = replace(
        plain_spec(family), neck=draw(width), neck_norm=draw(st.booleans()), head=draw(heads(widths)), num_classes=draw(st.integers(1, 3))
    )
    spec = tie(spec, draw(stages_of(family, widths, deepest)), draw(width))
    if traits.block == "mbconv":
        spec = replace(spec, tail=draw(st.sampled_from((0, *widths))))
    if traits.block == "bottleneck":
        spec = replace(spec, stride_in_1x1=draw(st.booleans()))
    if traits.block == "bottleneck" and draw(st.booleans()):
        spec = replace(spec, deformable=draw(st.sampled_from(((1, 2, 3), (3,)))), modulated=draw(st.booleans()))
    return spec


@st.composite
def pairs(draw: st.DrawFn) -> tuple[DetectorSpec, DetectorSpec]:
    """Draw a larger spec and one that can be cut out of it."""
    large = draw(specs())

    def lower(width: int, group: int = 1) -> int:
        return draw(st.integers(1, width // group)) * group

    stages = []
    for stage, group in zip(large.stages, large.traits.group_widths, strict=True):
        depth = lower(stage.depth)
        inner = tuple(lower(w, group or 1) for w in stage.inner[:depth])
        stages.append(Stage(lower(stage.width), inner, tuple(lower(w) for w in stage.squeeze[:depth])))
    convs = tuple(lower(w) for w in large.head.convs)
    head = replace(large.head, width=lower(large.head.width), rpn_width=lower(large.head.rpn_width), convs=convs)
    small = replace(large, neck=lower(large.neck), head=head, tail=lower(large.tail) if large.tail else 0)
    return large, tie(small, stages, lower(large.stem))


def random_state(spec: DetectorSpec, seed: int = 0) -> State:
    """Return the state of a detector whose norms look trained: no two gammas equal, statistics that are not neutral."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = build(spec).state_dict()
        for name, tensor in state.items():
            if name.endswith(("norm.weight", "running_var")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1)
    return state


def images(count: int = 2, seed: int = 0) -> Tensor:
    """Return normalized noise `[count, 3, *SIZE_HW]`."""
    return torch.randn(count, 3, *SIZE_HW, generator=torch.Generator().manual_seed(seed))


def loaded(spec: DetectorSpec, state: State) -> Detector:
    """Return a plain module with a copy of `state`, loaded strictly, in evaluation mode."""
    detector = build(spec)
    detector.load_state_dict(state)
    return detector.eval()


BOXES = torch.tensor([[[0.0, 0.0, 40.0, 30.0], [10.0, 20.0, 90.0, 60.0]]]).expand(2, -1, -1)


@torch.no_grad()
def outputs(spec: DetectorSpec, state: State) -> list[Tensor]:
    """Return everything the network computes, elastically: P2..P6, RPN logits and deltas, class logits and box deltas."""
    detector = meta_detector(spec).eval()
    pyramid = call_with(detector, state, "features", images())
    rpn = call_with(detector.rpn, {n.removeprefix("rpn."): t for n, t in state.items() if n.startswith("rpn.")}, "forward", pyramid)
    pooled = detector.roi_features(pyramid, BOXES)
    heads = []
    for prefix, head in _box_heads(detector):
        of_head = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        heads += call_with(head, of_head, "forward", pooled)
    return [*pyramid, rpn.objectness, rpn.deltas, *heads]


@torch.no_grad()
def plain_outputs(detector: Detector) -> list[Tensor]:
    """Return the same of a plain module."""
    pyramid = detector.features(images())
    rpn = detector.rpn(pyramid)
    pooled = detector.roi_features(pyramid, BOXES)
    return [*pyramid, rpn.objectness, rpn.deltas, *(output for _, head in _box_heads(detector) for output in head(pooled))]


def _box_heads(detector: Detector) -> list[tuple[str, nn.Module]]:
    return [("box_head.", detector.box_head), *((f"cascade.{index}.", head) for index, head in enumerate(detector.cascade))]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference of two outputs, relative to the size of each tensor; new channels of ours are not compared."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a = a[:, : b.shape[1]]
        worst = max(worst, float((a - b).abs().max()) / max(float(b.abs().max()), 1e-3))
    return worst


def counted(detector: Detector, size_hw: tuple[int, int]) -> dict[str, int]:
    """Run the network on one image and count multiply-adds per layer from the shapes that hooks see."""
    counts: dict[str, int] = {}

    def hook(name: str, module: nn.Conv2d | nn.Linear, output: Tensor) -> None:
        counts[name] = counts.get(name, 0) + output.numel() * prod(module.weight.shape[1:])

    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, _, output, name=name: hook(name, module, output))
    device = next(detector.parameters()).device
    with torch.no_grad():
        pyramid = detector.features(torch.zeros(1, 3, *size_hw, device=device))
        for level in pyramid:
            hidden = detector.rpn.conv(level)
            for conv in detector.rpn.deeper:
                hidden = conv(hidden)
            detector.rpn.objectness(hidden)
            detector.rpn.deltas(hidden)
        for _, head in _box_heads(detector):
            head(torch.zeros(1, detector.spec.head.proposals, detector.spec.neck, 7, 7, device=device))
    return counts
