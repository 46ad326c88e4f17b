"""The report in a real browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jdnas.data.shapes import make_shapes
from jdnas.pipeline.data_check import check_folder
from jdnas.report.build import write_report
from jdnas.report.compare import write_comparison

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-sync", "--disable-component-update", "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHARTS = 7

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

# Clicks through the page and tells the frame around it what came of it.
PROBE = """
<script>
window.addEventListener("load", () => {
  const theme = () => document.documentElement.dataset.theme;
  const before = theme();
  document.querySelectorAll("nav a").forEach((link) => link.click());
  document.querySelectorAll("details summary").forEach((one) => one.click());
  document.getElementById("theme").click();
  setTimeout(() => {
    const charts = [...document.querySelectorAll(".chart")];
    const plain = [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, .chart, pre, svg"));
    parent.postMessage({
      before, after: theme(), page: window.innerWidth,
      charts: charts.length,
      drawn: charts.filter((c) => c.querySelector(".point, .js-line")).length,
      clipped: charts.filter((c) => c.querySelector(".main-svg").getBoundingClientRect().width > c.clientWidth).map((c) => c.id),
      overlapping: [...document.querySelectorAll("main > section, section > *")].filter((e) => {
        const next = e.nextElementSibling;
        return next && e.getBoundingClientRect().bottom > next.getBoundingClientRect().top + 1;
      }).map((e) => e.outerHTML.slice(0, 80)),
      overflowing: plain.filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1).map((e) => e.outerHTML.slice(0, 80)),
    }, "*");
  }, 1500);
});
</script>
"""
# Headless windows have a least width; a frame can be as narrow as a phone.
FRAME = """
<body><iframe src="report.html" style="width:WIDTHpx;height:3000px;border:0"></iframe>
<script>addEventListener("message", (event) => { document.body.dataset.probe = JSON.stringify(event.data); });</script></body>
"""


def open_page(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Return the page's final DOM and what its console said."""
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={profile}", "--window-size=1500,3000", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def clicked_through(page: str, tmp_path: Path, width: int, flags: tuple[str, ...]) -> dict[str, Any]:
    """Open a page in a frame, click everything that there is to click, and return what the probe saw; the console stays empty."""
    (tmp_path / "report.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    dom, console = open_page(tmp_path / "frame.html", tmp_path / "profile", *flags)
    assert console == []
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found is not None, "the page's probe did not answer"
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert seen["page"] == width
    assert (seen["before"], seen["after"]) == (("dark", "light") if flags else ("light", "dark"))
    assert (seen["clipped"], seen["overflowing"], seen["overlapping"]) == ([], [], [])
    return seen


WIDTHS = pytest.mark.parametrize(("width", "flags"), [(1440, ()), (390, (DARK,))])


@WIDTHS
def test_report_in_chromium(full_run: Path, tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    seen = clicked_through(write_report(full_run).read_text(encoding="utf-8"), tmp_path, width, flags)
    assert (seen["charts"], seen["drawn"]) == (CHARTS, CHARTS)


@WIDTHS
def test_comparison_in_chromium(full_run: Path, tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    shutil.copytree(full_run, tmp_path / "again")
    page = write_comparison([full_run, tmp_path / "again"], tmp_path / "comparison.html").read_text(encoding="utf-8")
    seen = clicked_through(page, tmp_path, width, flags)
    assert (seen["charts"], seen["drawn"]) == (3, 3)


@WIDTHS
def test_data_page_in_chromium(tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    make_shapes(tmp_path / "shapes", train=12, val=12, size=64, seed=0)
    checked = check_folder(tmp_path / "shapes", tmp_path / "out", images=4, seed=0, console=Console(), quiet=True)
    seen = clicked_through(checked.page.read_text(encoding="utf-8"), tmp_path, width, flags)
    assert (seen["charts"], seen["drawn"]) == (6, 6)


def test_the_console_is_really_read(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>undefinedName()</script>")
    _, console = open_page(tmp_path / "bad.html", tmp_path / "profile")
    assert any("undefinedName" in line for line in console)
