from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jdnas.config import RunConfig, resolve
from jdnas.data.records import DetectionSet, Record
from jdnas.errors import CheckpointError, ConfigError
from jdnas.models.detector import build
from jdnas.pipeline.base import check_sources, initial_state
from jdnas.pipeline.context import Context, base_spec_of, canvas_sizes, load_context, pick_device
from jdnas.pipeline.run_folder import RunFolder
from jdnas.presets import preset
from jdnas.spec import FAMILIES
from jdnas.training.checkpoint import save_detector

NANO = str(Path(__file__).with_name("nano.yaml"))


def images(*sizes_hw: tuple[int, int]) -> DetectionSet:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0)
    records = tuple(Record(i, Path(f"{i}.png"), height, width, *nothing) for i, (height, width) in enumerate(sizes_hw))
    return DetectionSet("made", Path(), "train", ("thing",), (1,), records)


@pytest.mark.parametrize(
    ("sizes_hw", "long_sides", "expected"),
    [
        ([(480, 640)] * 3, (320, 640), ((256, 320), (480, 640))),  # landscape; 240 rounds up to 256
        ([(640, 480)] * 3, (320, 640), ((320, 256), (640, 480))),  # portrait
        ([(480, 640), (640, 480)], (320, 640), ((320, 320), (640, 640))),  # both are common: square
        ([(480, 640)] * 19 + [(640, 480)], (640,), ((480, 640),)),  # one in twenty is not common
        ([(500, 500)] * 2, (256, 512), ((256, 256), (512, 512))),
        ([(90, 120)] * 2, (96, 320, 640), ((32, 32), (64, 64), (96, 128))),  # the largest would exceed the images: all are reduced
        ([(480, 640)] * 2, (640, 320), ((256, 320), (480, 640))),  # ascending, whatever the order
        ([(90, 120)] * 2, (1024, 1040), ((96, 128),)),  # each canvas once
        ([(10, 1000)] * 2, (1024,), ((32, 1024),)),  # no side below the stride
        ([(480, 640)] * 5 + [(4000, 6000)], (800,), ((480, 640),)),  # one huge image does not lift the cap
    ],
)
def test_canvas_sizes(sizes_hw, long_sides, expected) -> None:
    assert canvas_sizes(images(*sizes_hw), long_sides) == expected


def test_canvases_are_multiples_of_the_stride() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        data = images(*(tuple(map(int, rng.integers(20, 2000, 2))) for _ in range(7)))
        sizes = canvas_sizes(data, tuple(map(int, rng.integers(32, 1500, 3))))
        assert sizes and all(side % 32 == 0 and side >= 32 for size in sizes for side in size)
        assert list(sizes) == sorted(sizes, key=lambda size: size[0] * size[1])


def test_base_spec_at_full_scale_is_the_preset() -> None:
    assert base_spec_of(RunConfig(base="r50"), 7, 800) == preset("r50", 7)


def test_anchors_shrink_with_the_canvas_and_never_grow() -> None:
    config = RunConfig(base="r50")
    assert base_spec_of(config, 7, 400).head.anchor_sizes == (16, 32, 64, 128, 256)
    assert base_spec_of(config, 7, 1333).head.anchor_sizes == (32, 64, 128, 256, 512)
    assert min(base_spec_of(config, 7, 32).head.anchor_sizes) == 4


def test_scratch_width_spares_pretrained_backbones() -> None:
    half = {"model": {"scratch_width": 0.5, "neck": 64}}
    scratch, lite = (base_spec_of(resolve("custom", half | {"base": base}), 3, 800) for base in ("r18", "lite0"))
    assert [stage.width for stage in scratch.stages] == [32, 64, 128, 256] and scratch.neck == 64
    assert lite.stages == preset("lite0", 3).stages and lite.neck == 64


def test_unknown_base_and_missing_device() -> None:
    with pytest.raises(ConfigError, match="unknown base 'r17'"):
        base_spec_of(RunConfig(base="r17"), 3, 800)
    assert pick_device("cpu").type == "cpu"


@pytest.fixture
def nano(tmp_path: Path) -> Context:
    return load_context(resolve(NANO, {}), RunFolder(tmp_path / "run"))


def test_making_the_shapes_begins_the_run(nano: Context) -> None:
    """Else a run killed while they are made would leave a folder that neither a new run nor --resume takes."""
    assert nano.folder.config_file.exists()
    assert (len(nano.train.records), len(nano.val.records)) == (12, 6)
    assert nano.sizes_hw == ((64, 64), (96, 96)) and nano.base_size_hw == (96, 96)


def test_calibration_images_are_the_first_ones(nano: Context) -> None:
    batches = list(nano.calibration_images(10))
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 96, 96), (2, 3, 96, 96)]
    small = list(nano.calibration_images(3, (64, 64)))
    assert [tuple(batch.shape) for batch in small] == [(3, 3, 64, 64)]
    assert nano.calibration(1000, (64, 64), nano.base_spec.traits).count == len(nano.train.records)


def test_calibration_images_take_the_normalization_of_the_teachers_family(nano: Context) -> None:
    lite = FAMILIES["efficientnet_lite"]
    mine, its = (next(nano.calibration_images(1, traits=traits)) for traits in (nano.base_spec.traits, lite))
    mean, std, new_mean, new_std = (
        torch.tensor(v)[:, None, None] for v in (nano.base_spec.traits.mean, nano.base_spec.traits.std, lite.mean, lite.std)
    )
    assert torch.allclose(its, (mine * std + mean - new_mean) / new_std, atol=1e-5)


def test_users_weights_bring_their_widths(nano: Context, tmp_path: Path) -> None:
    stem = tmp_path / "mine"
    trained = replace(nano.base_spec, num_classes=5)
    state = build(trained).state_dict()
    save_detector(stem, trained, state, {})
    weights = f"{stem}.safetensors"
    config = resolve(NANO, {"weights": weights, "model": {"scratch_width": 1.0, "neck": 32}})
    check_sources(config)
    context = load_context(config, RunFolder(tmp_path / "second"))
    assert context.base_spec.stages == trained.stages and context.base_spec.neck == trained.neck
    assert context.base_spec.num_classes == 3
    start, origin = initial_state(context)
    assert origin == f"weights {weights}; class scores and box deltas begin anew for 3 classes (the file has 5)"
    names = [name for name in start if name.startswith("backbone.") and name.endswith("weight")]
    assert names and all(start[name].equal(state[name]) for name in names)
    assert start.keys() == state.keys()


def test_a_cascade_keeps_its_boxes_for_other_classes(nano: Context, tmp_path: Path) -> None:
    head = replace(nano.base_spec.head, kind="cascade")
    trained = replace(nano.base_spec, head=head, num_classes=5)
    state = build(trained).state_dict()
    save_detector(tmp_path / "mine", trained, state, {})
    context = load_context(resolve(NANO, {"weights": str(tmp_path / "mine.safetensors")}), RunFolder(tmp_path / "second"))
    start, origin = initial_state(context)
    assert origin.endswith("; class scores begin anew for 3 classes (the file has 5)")
    for layer in ("box_head.box_deltas.weight", "cascade.1.box_deltas.weight", "cascade.0.fc6.weight"):
        assert start[layer].equal(state[layer])
    assert len(start["cascade.1.class_logits.weight"]) == 4


def test_weights_decide_on_the_architecture(nano: Context, tmp_path: Path) -> None:
    head = replace(nano.base_spec.head, roi_aligned=True, round_anchors=False, width=24, anchor_sizes=(9, 18, 36, 72, 144))
    save_detector(tmp_path / "mine", replace(nano.base_spec, head=head), build(replace(nano.base_spec, head=head)).state_dict(), {})
    config = resolve(NANO, {"weights": str(tmp_path / "mine.safetensors"), "base": "r34"})
    check_sources(config)
    spec = base_spec_of(config, 7, 96)
    assert base_spec_of(resolve(NANO, {"weights": config.weights, "model": {"roi_sampling": 1}}), 7, 96).head.roi_sampling == 1
    assert (spec.depths, spec.num_classes) == (nano.base_spec.depths, 7)
    assert spec.head == replace(nano.base_spec.head, roi_aligned=True, round_anchors=False, width=24, anchor_sizes=(9, 18, 36, 72, 144))


def test_damaged_weights(nano: Context, tmp_path: Path) -> None:
    save_detector(tmp_path / "mine", nano.base_spec, build(nano.base_spec).state_dict(), {})
    path = tmp_path / "mine.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        check_sources(resolve(NANO, {"weights": str(path)}))


def test_learning_rates_shrink_for_trained_weights_only(nano: Context, tmp_path: Path) -> None:
    save_detector(tmp_path / "mine", nano.base_spec, build(nano.base_spec).state_dict(), {})
    config = nano.config.model_copy(update={"pretrained_lr_factor": 0.5})
    scratch = load_context(config, nano.folder).config
    tuned = load_context(config.model_copy(update={"weights": str(tmp_path / "mine.safetensors")}), nano.folder).config
    for name in ("base_train", "candidate_train"):
        assert getattr(scratch, name) == getattr(config, name)
        assert getattr(tuned, name).lr == pytest.approx(0.5 * getattr(config, name).lr)
    assert tuned.pool.train.lr == pytest.approx(0.5 * config.pool.train.lr)
