"""Detections drawn on images."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

with warnings.catch_warnings():
    # Without OpenCV supervision draws with NumPy and says so at every start; boxes and labels look the same.
    warnings.filterwarnings("ignore", message=r"OpenCV .* is not installed", category=UserWarning)
    import supervision as sv

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

_PALETTE = ["#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#65a30d", "#7c3aed", "#be185d", "#475569"]
_GAP, _CAPTION_HEIGHT, _PAPER, _INK = 6, 28, (24, 27, 32), (226, 229, 234)  # a dark frame suits light and dark pages


def draw_detections(
    image: Pixels,
    boxes_xyxy: Floats,
    labels: npt.NDArray[np.integer],
    scores: Floats | None,
    class_names: Sequence[str],
    *,
    height: int | None = None,
) -> Pixels:
    """Return a copy of `image` with a box and a label for every detection, first scaled to `height` pixels if that is given.

    `image` [H, W, 3] uint8 RGB; `boxes_xyxy` [N, 4] in pixels of it; `labels` [N] in 1..K (0 is the background);
    `scores` [N] in [0, 1], or None for ground truth; `class_names` has K entries.
    """
    if height is not None:
        boxes_xyxy, image = boxes_xyxy * (height / image.shape[0]), np.asarray(_scaled(image, height))
    if len(boxes_xyxy) == 0:
        return image.copy()
    order = np.arange(len(boxes_xyxy)) if scores is None else np.argsort(scores, kind="stable")  # the surest on top
    indices = np.asarray(labels, dtype=int)[order] - 1
    names = [class_names[i] if 0 <= i < len(class_names) else f"class {i + 1}" for i in indices]
    texts = names if scores is None else [f"{name} {scores[i]:.2f}" for name, i in zip(names, order, strict=True)]
    detections = sv.Detections(xyxy=np.asarray(boxes_xyxy, dtype=np.float32)[order], class_id=indices)
    unit = max(image.shape[0], image.shape[1]) / 480
    palette = sv.ColorPalette.from_hex(_PALETTE)
    box = sv.BoxAnnotator(color=palette, thickness=max(1, round(2 * unit)))
    label = sv.RichLabelAnnotator(
        color=palette, font_size=max(9, round(13 * unit)), text_padding=max(1, round(3 * unit)), smart_position=True
    )
    scene = np.ascontiguousarray(image[..., ::-1])  # supervision thinks in BGR
    scene = label.annotate(box.annotate(scene, detections), detections, labels=texts)
    return np.ascontiguousarray(np.asarray(scene)[..., ::-1])


def side_by_side(images: Sequence[Pixels], captions: Sequence[str], *, height: int = 360) -> Pixels:
    """Return one RGB image with all `images` scaled to `height` pixels in a row, each under its caption."""
    if not images or len(images) != len(captions):
        raise ValueError(f"side_by_side needs as many captions as images and at least one, got {len(images)} and {len(captions)}")
    panels = [_scaled(image, height) for image in images]
    sheet = Image.new("RGB", (sum(p.width for p in panels) + _GAP * (len(panels) - 1), height + _CAPTION_HEIGHT), _PAPER)
    pen, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(15), 0
    for panel, caption in zip(panels, captions, strict=True):
        pen.text((left + 8, 5), caption, fill=_INK, font=font)
        sheet.paste(panel, (left, _CAPTION_HEIGHT))
        left += panel.width + _GAP
    return np.asarray(sheet)


def contact_sheet(images: Sequence[Pixels], captions: Sequence[str], *, columns: int = 6, tile_wh: tuple[int, int] = (300, 240)) -> Pixels:
    """Return one RGB image with all `images` in rows of `columns`, each fitted into a tile of (width, height) pixels above its caption."""
    if not images or len(images) != len(captions):
        raise ValueError(f"contact_sheet needs as many captions as images and at least one, got {len(images)} and {len(captions)}")
    columns = min(columns, len(images))
    rows, (width, height) = -(-len(images) // columns), tile_wh
    across, down = width + _GAP, height + _CAPTION_HEIGHT + _GAP
    sheet = Image.new("RGB", (across * columns - _GAP, down * rows - _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = index % columns * across, index // columns * down
        picture = ImageOps.contain(Image.fromarray(image), tile_wh)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        pen.text((left + 6, top + height + 6), _fitting(caption, font, width - 12), fill=_INK, font=font)
    return np.asarray(sheet)


def write_png(path: Path, image: Pixels) -> None:
    """Write an RGB image [H, W, 3], making the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG", optimize=True)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return a text cut in its middle until it is at most `width` pixels wide."""
    kept = text
    while len(kept) > 3 and font.getlength(kept) > width:
        half = (len(kept) - 2) // 2
        kept = f"{kept[:half]}…{kept[-half:]}"
    return kept


def write_jpeg(path: Path, image: Pixels) -> None:
    """Write an RGB image [H, W, 3], making the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "JPEG", quality=88, optimize=True)


def _scaled(image: Pixels, height: int) -> Image.Image:
    return Image.fromarray(image).resize((max(1, round(image.shape[1] * height / image.shape[0])), height))
