import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jdnas.data.augment import NO_AUGMENT, AugmentSettings, augmented, fit, letterbox, look, planes, recoloured, unaugmented
from jdnas.errors import ConfigError

GEOMETRIC = AugmentSettings(flip=0.5, brightness=0, contrast=0, saturation=0, hue=0, zoom=(0.5, 2.0))
SIDES = st.integers(8, 150)
CANVASES = st.sampled_from([(32, 32), (64, 32), (64, 96), (128, 128)])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(height=SIDES, width=SIDES, canvas=CANVASES)
def test_letterbox_fills_one_side_and_keeps_the_proportions(height, width, canvas):
    view = fit((height, width), canvas)
    assert view.scale == pytest.approx(min(canvas[0] / height, canvas[1] / width))
    assert view.height == canvas[0] or view.width == canvas[1]
    assert view.height == max(1, int(height * view.scale)) and view.width == max(1, int(width * view.scale))
    assert (view.top, view.left) == (0, 0)


@given(height=SIDES, width=SIDES, canvas=CANVASES, zoom=st.floats(0.3, 4), place=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(deadline=None, max_examples=60)
def test_every_view_lies_inside_the_image_and_fits_the_canvas(height, width, canvas, zoom, place):
    view = fit((height, width), canvas, zoom, place)
    assert 1 <= view.height <= canvas[0] and 1 <= view.width <= canvas[1]
    assert view.top >= 0 and view.left >= 0
    assert look(noise(height, width), view).shape == (view.height, view.width, 3)


@pytest.mark.parametrize("size_hw", [(96, 96), (320, 320), (224, 320)])
def test_letterbox_resamples_as_pillow_does_with_the_exact_factor(size_hw):
    image = noise(250, 167)
    pixels, scale = letterbox(image, size_hw)
    height, width = pixels.shape[:2]
    seen = (0, 0, min(width / scale, 167), min(height / scale, 250))
    expected = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=seen)
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 1


def test_an_image_of_the_size_of_its_canvas_is_unchanged():
    image = noise(64, 96)
    pixels, scale = letterbox(image, (64, 96))
    assert scale == pytest.approx(1)
    np.testing.assert_array_equal(pixels, image)


def test_a_sliver_keeps_one_pixel():
    pixels, scale = letterbox(noise(1, 500), (32, 32))
    assert pixels.shape == (1, 32, 3) and scale == pytest.approx(32 / 500)


def test_boxes_follow_the_letterbox():
    boxes = np.array([[10, 20, 30, 60], [0, 0, 3, 3]], np.float32)
    sample = unaugmented(noise(100, 200), boxes, np.array([2, 1]), (32, 64))
    assert sample.scale == pytest.approx(0.32)
    np.testing.assert_allclose(sample.boxes_xyxy, [[3.2, 6.4, 9.6, 19.2]], rtol=1e-5)
    assert sample.labels.tolist() == [2]  # the other one is 0.96 px wide
    assert sample.image.shape == (3, 32, 64)


def painted_box(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(image[0] > 0.5)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_zoom_crop_and_flip(seed):
    random = rng(seed)
    image = np.zeros((80, 120, 3), np.uint8)
    x, y = int(random.integers(0, 60)), int(random.integers(0, 40))
    image[y : y + 30, x : x + 40] = 255
    boxes = np.array([[x, y, x + 40, y + 30]], np.float32)
    sample = augmented(image, boxes, np.array([1]), (64, 96), GEOMETRIC, random)
    assert sample.image.shape[1] <= 64 and sample.image.shape[2] <= 96
    if len(sample.labels):
        np.testing.assert_allclose(painted_box(sample.image), sample.boxes_xyxy[0], atol=1.0)
    else:
        assert (sample.image > 0.5).any(axis=0).sum() < 96


def test_flip_happens_as_often_as_asked():
    image = np.zeros((32, 32, 3), np.uint8)
    boxes, labels = np.array([[0, 0, 8, 8]], np.float32), np.array([1])
    for flip, expected in ((0.0, 0), (1.0, 200), (0.5, 100)):
        draws = [augmented(image, boxes, labels, (32, 32), AugmentSettings(flip=flip), rng(seed)) for seed in range(200)]
        mirrored = sum(d.boxes_xyxy.tolist() == [[24, 0, 32, 8]] for d in draws)
        assert sum(d.boxes_xyxy.tolist() == [[0, 0, 8, 8]] for d in draws) == 200 - mirrored
        assert abs(mirrored - expected) <= (25 if flip == 0.5 else 0)


def test_no_augmentation_is_the_letterbox():
    image, boxes, labels = noise(70, 50), np.array([[3, 4, 20, 30]], np.float32), np.array([1])
    plain, drawn = unaugmented(image, boxes, labels, (64, 64)), augmented(image, boxes, labels, (64, 64), NO_AUGMENT, rng())
    np.testing.assert_array_equal(plain.image, drawn.image)
    np.testing.assert_array_equal(plain.boxes_xyxy, drawn.boxes_xyxy)


def test_the_same_generator_gives_the_same_sample():
    image, boxes, labels = noise(70, 50), np.array([[3, 4, 20, 30]], np.float32), np.array([1])
    draws = [augmented(image, boxes, labels, (64, 64), AugmentSettings(zoom=(0.8, 1.5)), rng(s)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0].image, draws[1].image)
    assert draws[0].image.shape != draws[2].image.shape or not np.array_equal(draws[0].image, draws[2].image)


class Fixed(np.random.Generator):
    """Draws the upper end of every range."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def]
        return np.full(size, high) if size else high


def only(**changed: float) -> AugmentSettings:
    return AugmentSettings(**{"flip": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, **changed})


def test_colour_changes_worked_by_hand():
    image = planes(np.array([[[40, 80, 120], [60, 60, 60]]], np.uint8))
    luma = np.array([0.299, 0.587, 0.114]) @ image.reshape(3, -1)
    np.testing.assert_allclose(recoloured(image, only(brightness=0.5), Fixed()), image * 1.5, rtol=1e-5)
    np.testing.assert_allclose(recoloured(image, only(contrast=0.5), Fixed()), 1.5 * image - 0.5 * luma.mean(), rtol=1e-5)
    expected = 1.5 * image - 0.5 * luma.reshape(1, 1, 2)
    np.testing.assert_allclose(recoloured(image, only(saturation=0.5), Fixed()), expected, rtol=1e-5)


def test_hue_turns_the_colour_circle_and_leaves_grey_and_brightness():
    image = planes(np.array([[[90, 110, 130], [77, 77, 77]]], np.uint8))
    turned = recoloured(image, only(hue=0.25), Fixed())
    np.testing.assert_allclose(turned[:, 0, 1], image[:, 0, 1], rtol=1e-4)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(weights @ turned[:, 0, 0], weights @ image[:, 0, 0], rtol=1e-4)
    before, after = (colorsys.rgb_to_hsv(*pixels[:, 0, 0])[0] for pixels in (image, turned))
    assert 0.15 < min((after - before) % 1, (before - after) % 1) < 0.35


def test_colours_stay_in_range():
    image = planes(noise(16, 16))
    for seed in range(20):
        out = recoloured(image, AugmentSettings(brightness=1, contrast=1, saturation=1, hue=0.5), rng(seed))
        assert out.min() >= 0 and out.max() <= 1 and out.dtype == np.float32


@pytest.mark.parametrize("wrong", [{"flip": 1.2}, {"hue": 0.6}, {"brightness": -0.1}, {"zoom": (0, 1)}, {"zoom": (2, 1)}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentSettings(**wrong)
