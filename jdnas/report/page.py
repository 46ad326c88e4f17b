"""Self-contained pages: one style sheet, one script, everything that they show inside them."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from jdnas.report import charts, tiles

_WIDEST = 2000


def render(template: str, context: dict[str, Any]) -> str:
    """Return a page that loads nothing from anywhere.

    `context` holds, for all pages, title, kicker, heading, verdict (sentences), sections (place and name of each) and figures.
    """
    environment = Environment(
        loader=PackageLoader("jdnas.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(words=charts.readable, flat=tiles.flat, table=tiles.table)
    return environment.get_template(template).render(**context, plotly=Markup(get_plotlyjs()))


def embedded(path: Path) -> str:
    """Return an image file as the data URL of a JPEG that is at most 2000 pixels wide."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=86, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
