from dataclasses import replace

import pytest

from jdnas.presets import preset, scale_backbone
from jdnas.spec import DetectorSpec


def small_spec() -> DetectorSpec:
    spec = scale_backbone(preset("r18", 2), 0.125)
    head = replace(spec.head, width=16, rpn_width=8, proposals=10, candidates=20, train_proposals=20, train_candidates=20, roi_samples=8)
    return replace(spec, neck=8, head=head)


@pytest.fixture
def small() -> DetectorSpec:
    return small_spec()
