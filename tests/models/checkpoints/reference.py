"""Faster R-CNN with FPN as detectron2 and mmdetection define it, step by step on one image, from a state dict in their names.

Written from their public definitions with torchvision's operators; it shares no code with jdnas.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, deform_conv2d, roi_align


@dataclass(frozen=True)
class Names:
    """Where a project keeps its layers; `{}` are stage (1..4), block and convolution."""

    stem: tuple[str, str]
    conv: str
    norm: str
    shortcut: tuple[str, str]
    lateral: str
    output: str
    rpn: tuple[str, str, str]
    box: tuple[str, str, str, str]
    offset: str
    first_stage: int = 1
    first_level: int = 0


MMDETECTION = Names(
    ("backbone.conv1", "backbone.bn1"), "backbone.layer{}.{}.conv{}", "backbone.layer{}.{}.bn{}",
    ("backbone.layer{}.{}.downsample.0", "backbone.layer{}.{}.downsample.1"), "neck.lateral_convs.{}.conv", "neck.fpn_convs.{}.conv",
    ("rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg"),
    ("roi_head.bbox_head.shared_fcs.0", "roi_head.bbox_head.shared_fcs.1", "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"),
    "backbone.layer{}.{}.conv2.conv_offset",
)  # fmt: skip
_UP, _RPN, _ROI = "backbone.bottom_up.", "proposal_generator.rpn_head.", "roi_heads."
DETECTRON2 = Names(
    (f"{_UP}stem.conv1", f"{_UP}stem.conv1.norm"), _UP + "res{}.{}.conv{}", _UP + "res{}.{}.conv{}.norm",
    (_UP + "res{}.{}.shortcut", _UP + "res{}.{}.shortcut.norm"), "backbone.fpn_lateral{}", "backbone.fpn_output{}",
    (f"{_RPN}conv", f"{_RPN}objectness_logits", f"{_RPN}anchor_deltas"),
    (f"{_ROI}box_head.fc1", f"{_ROI}box_head.fc2", f"{_ROI}box_predictor.cls_score", f"{_ROI}box_predictor.bbox_pred"),
    _UP + "res{}.{}.conv2_offset",
    first_stage=2, first_level=2,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the projects' settings say: pixels are (x - mean) / std in BGR or RGB order; stds of box deltas (mmdetection's way)."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool
    stride_in_1x1: bool
    aligned: bool = True
    sampling: int = 0
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    proposals: int = 1000
    cascade_stds: tuple[tuple[float, float, float, float], ...] = ()  # of a cascade's three heads
    mean_of_logits: bool = False  # whether the scores of a cascade are the softmax of mean logits or the mean of probabilities


def cascaded(names: Names) -> Names:
    """The names of a cascade, whose box heads are numbered."""
    box = (re.sub(r"(bbox_head\.|box_head\.|box_predictor\.)", r"\1{}", name) for name in names.box)
    return replace(names, box=tuple(box))


class Reference:
    def __init__(self, state: Mapping[str, Tensor], names: Names, settings: Settings, depths: tuple[int, ...]) -> None:
        self.state, self.names, self.settings, self.depths = state, names, settings, depths

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def pyramid(self, pixels_rgb: Tensor) -> list[Tensor]:
        """Pixels `[3, H, W]` in 0..255, sides multiples of 32, give P2..P6."""
        s, names = self.settings, self.names
        x = pixels_rgb.flip(0) if s.bgr else pixels_rgb
        x = ((x - torch.tensor(s.mean)[:, None, None]) / torch.tensor(s.std)[:, None, None])[None]
        x = F.max_pool2d(F.relu(self.norm(self.conv(x, names.stem[0], 2), names.stem[1])), 3, 2, 1)
        maps = []
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = self.bottleneck(x, stage + names.first_stage, block, 2 if block == 0 and stage > 0 else 1)
            maps.append(x)
        merged = None
        levels = []
        for index in range(3, -1, -1):
            lateral = self.conv(maps[index], names.lateral.format(index + names.first_level))
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            levels.insert(0, self.conv(merged, names.output.format(index + names.first_level)))
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]

    def bottleneck(self, x: Tensor, stage: int, block: int, stride: int) -> Tensor:
        names = self.names
        strides = (stride, 1, 1) if self.settings.stride_in_1x1 else (1, stride, 1)
        y = x
        for index, s in enumerate(strides, start=1):
            offset = names.offset.format(stage, block)
            if index == 2 and f"{offset}.weight" in self.state:
                y = self.deformed(y, names.conv.format(stage, block, index), offset, s)
            else:
                y = self.conv(y, names.conv.format(stage, block, index), s)
            y = self.norm(y, names.norm.format(stage, block, index))
            y = F.relu(y) if index < 3 else y
        if block == 0:
            x = self.norm(self.conv(x, names.shortcut[0].format(stage, block), stride), names.shortcut[1].format(stage, block))
        return F.relu(x + y)

    def deformed(self, x: Tensor, name: str, offset: str, stride: int) -> Tensor:
        """Both projects predict y, x of 9 samples in turn; modulated ones split 27 values in three and squash the last."""
        predicted = self.conv(x, offset, stride)
        if predicted.shape[1] == 18:
            return deform_conv2d(x, predicted, self.state[f"{name}.weight"], stride=stride, padding=1)
        first, second, mask = predicted.chunk(3, 1)
        shifts = torch.cat((first, second), 1)
        return deform_conv2d(x, shifts, self.state[f"{name}.weight"], stride=stride, padding=1, mask=mask.sigmoid())

    def proposals(self, pyramid: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        boxes, scores, levels = [], [], []
        for level, features in enumerate(pyramid):
            hidden = F.relu(self.conv(features, self.names.rpn[0]))
            logits = self.conv(hidden, self.names.rpn[1])[0].permute(1, 2, 0).reshape(-1)
            deltas = self.conv(hidden, self.names.rpn[2])[0].permute(1, 2, 0).reshape(-1, 4)
            anchors = self.anchors(level, features.shape[-2:])
            best = logits.argsort(descending=True)[:1000]
            found = clipped(decoded(anchors[best], deltas[best], (1.0, 1.0, 1.0, 1.0)), size_hw)
            boxes.append(found)
            scores.append(logits[best])
            levels.append(torch.full((len(best),), level))
        boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        boxes, scores, levels = boxes[real], scores[real], levels[real]
        keep = batched_nms(boxes, scores, levels, 0.7)[: self.settings.proposals]
        return boxes[keep]

    def anchors(self, level: int, map_hw: tuple[int, int]) -> Tensor:
        stride, size, rows = 4 * 2**level, self.settings.sizes[level], []
        for y in range(map_hw[0]):
            for x in range(map_hw[1]):
                for ratio in self.settings.ratios:
                    width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    rows.append([x * stride - width / 2, y * stride - height / 2, x * stride + width / 2, y * stride + height / 2])
        return torch.tensor(rows)

    def pooled(self, pyramid: list[Tensor], boxes: Tensor) -> Tensor:
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level = torch.floor(4 + torch.log2(sides / 224 + 1e-8)).clamp(2, 5)
        result = torch.zeros(len(boxes), pyramid[0].shape[1], 7, 7)
        for index in range(4):
            mine = level == index + 2
            rois = torch.cat((torch.zeros(int(mine.sum()), 1), boxes[mine]), 1)
            result[mine] = roi_align(pyramid[index], rois, 7, 1 / (4 * 2**index), self.settings.sampling, self.settings.aligned)
        return result

    @torch.no_grad()
    def detect(self, pixels_rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels counted from 0, best first."""
        size_hw = (pixels_rgb.shape[1], pixels_rgb.shape[2])
        pyramid = self.pyramid(pixels_rgb)
        rois = self.proposals(pyramid, size_hw)
        cascade = "{}" in self.names.box[0]
        stds = self.settings.cascade_stds if cascade else (self.settings.box_stds,)
        logits = []
        for stage, deviations in enumerate(stds):
            x = self.pooled(pyramid, rois).flatten(1)
            first, second, cls, reg = (name.format(f"{stage}.") for name in self.names.box)
            x = F.relu(self.linear(F.relu(self.linear(x, first)), second))
            logits.append(self.linear(x, cls))
            deltas = self.linear(x, reg).reshape(len(x), -1, 4)
            if stage + 1 < len(stds):
                rois = clipped(decoded(rois, deltas[:, 0], deviations), size_hw)
        if self.settings.mean_of_logits:
            scores = torch.stack(logits).mean(0).softmax(1)
        else:
            scores = torch.stack([level.softmax(1) for level in logits]).mean(0)
        scores = scores[:, :-1]  # the background is the last class
        row, label = (scores > 0.05).nonzero(as_tuple=True)
        chosen = deltas[row, label] if deltas.shape[1] > 1 else deltas[row, 0]
        boxes = clipped(decoded(rois[row], chosen, stds[-1]), size_hw)
        scores = scores[row, label]
        keep = batched_nms(boxes, scores, label, 0.5)[:100]
        return boxes[keep], scores[keep], label[keep]


def decoded(boxes: Tensor, deltas: Tensor, stds: tuple[float, float, float, float]) -> Tensor:
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(1)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    limit = math.log(1000 / 16)
    x, y = boxes[:, 0] + width / 2 + dx * width, boxes[:, 1] + height / 2 + dy * height
    width, height = width * dw.clamp(max=limit).exp(), height * dh.clamp(max=limit).exp()
    return torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 1)


def clipped(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return torch.stack((*(boxes[:, i].clamp(0, size_hw[1 - i % 2]) for i in range(4)),), 1)
