import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jdnas.data import images as images_module
from jdnas.data.coco import load_split
from jdnas.data.images import DiskStore, image_size_hw, image_store, keep_images, read_image
from jdnas.errors import DataError

BOX = (1, (5, 6, 10, 12))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 9), (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("P", (10, 200, 30), (10, 200, 30)),
        ("RGBA", (10, 200, 30, 0), (10, 200, 30)),
        ("I;16", 100 * 256 + 77, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_png_modes_become_rgb(tmp_path, mode, value, expected):
    path = tmp_path / "image.png"
    image = Image.new("RGB" if mode == "P" else mode, (6, 4), value)
    (image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image).save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.reshape(-1, 3), [expected] * 24, atol=1)
    assert image_size_hw(path) == (4, 6)


def test_palette_with_transparency_warns_nobody(tmp_path):
    path = tmp_path / "image.png"
    Image.new("P", (6, 4)).save(path, transparency=b"\x00\x80")
    assert read_image(path).shape == (4, 6, 3)


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (16, 8), (255, 0, 0, 0)).save(path, quality=95)
    np.testing.assert_allclose(read_image(path)[4, 8], (0, 255, 255), atol=12)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size_alike(tmp_path, suffix, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # top left is white
    undo = {1: (0, 1), 2: (0, -1), 3: (180, 1), 4: (180, -1), 5: (90, -1), 6: (90, 1), 7: (-90, -1), 8: (-90, 1)}[orientation]
    turned = np.rot90(upright if undo[1] == 1 else upright[:, ::-1], k=undo[0] // 90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif)
    np.testing.assert_allclose(read_image(path).astype(int), upright, atol=40)
    assert image_size_hw(path) == (16, 32)


def test_damaged_files(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    assert image_size_hw(path) == (64, 64)
    path.write_bytes(path.read_bytes()[:-200])
    assert image_size_hw(path) is None
    with pytest.raises(DataError, match=r"image\.jpg' cannot be read \(.*truncated.*\); repair or remove it"):
        read_image(path)
    assert image_size_hw(tmp_path / "absent.jpg") is None


def test_cached_images_are_shared_and_uncached_ones_are_not(write_coco):
    data = load_split(write_coco(boxes=[[BOX], [BOX]]), "train")
    first = image_store(data)[0]
    assert first is image_store(data)[0]
    assert first is not image_store(data, cache=False)[0]
    np.testing.assert_array_equal(first, image_store(data, cache=False)[0])
    assert not np.array_equal(first, image_store(data)[1])


def test_sets_above_the_limit_are_not_cached(write_coco, monkeypatch):
    data = load_split(write_coco(boxes=[[BOX], [BOX]]), "train")
    decoded_bytes = 2 * 40 * 60 * 3
    monkeypatch.setattr(images_module, "CACHE_LIMIT_BYTES", decoded_bytes - 1)
    assert image_store(data)[0] is not image_store(data)[0]
    monkeypatch.setattr(images_module, "CACHE_LIMIT_BYTES", decoded_bytes)
    assert image_store(data)[0] is image_store(data)[0]


def test_an_image_replaced_after_loading_is_an_error(write_coco):
    root = write_coco(boxes=[[BOX]])
    data = load_split(root, "train")
    Image.new("RGB", (10, 10)).save(root / "images" / "train0.png")
    with pytest.raises(DataError, match="changed its size"):
        image_store(data)[0]
    os.remove(root / "images" / "train0.png")
    with pytest.raises(DataError, match="cannot be read"):
        image_store(data)[0]


def test_images_on_disk_are_decoded_once_and_shared(write_coco, tmp_path, monkeypatch):
    root = write_coco(boxes=[[BOX], [BOX]])
    data = load_split(root, "train")
    plain = [image_store(data, cache=False)[index] for index in range(2)]
    keep_images(data, "disk", tmp_path / "cache")
    store = image_store(data)
    assert isinstance(store, DiskStore)
    np.testing.assert_array_equal(store[1], plain[1])
    again = load_split(root, "train")
    keep_images(again, "disk", tmp_path / "cache")
    os.remove(root / "images" / "train1.png")
    np.testing.assert_array_equal(image_store(again)[1], plain[1])  # another reader finds what the first one decoded
    np.testing.assert_array_equal(image_store(again)[0], plain[0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_image_on_disk_that_was_changed_is_read_again(write_coco, tmp_path):
    data = load_split(write_coco(boxes=[[BOX]]), "train")
    keep_images(data, "disk", tmp_path / "cache")
    before = image_store(data)[0].copy()
    record = data.records[0]
    Image.new("RGB", (record.width, record.height), (7, 8, 9)).save(record.path.with_suffix(".new.png"))
    record.path.with_suffix(".new.png").replace(record.path)
    keep_images(data, "disk", tmp_path / "cache")  # a later run
    after = image_store(data)[0]
    assert (after == (7, 8, 9)).all() and not (before == after).all()


def test_a_disk_that_is_too_small(write_coco, tmp_path, monkeypatch):
    data = load_split(write_coco(boxes=[[BOX]]), "train")
    monkeypatch.setattr(images_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"image cache needs 0\.0 GB.*data_settings\.cache=none"):
        keep_images(data, "disk", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("cache", "shared"), [("ram", True), ("none", False)])
def test_where_images_stay_can_be_said(write_coco, tmp_path, monkeypatch, cache, shared):
    data = load_split(write_coco(boxes=[[BOX], [BOX]]), "train")
    monkeypatch.setattr(images_module, "CACHE_LIMIT_BYTES", 0 if shared else 10**9)
    keep_images(data, cache, tmp_path)
    assert (image_store(data)[0] is image_store(data)[0]) == shared
