"""The page, in a real browser: an image is dropped on it and boxes appear."""

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from fastapi.responses import HTMLResponse

from jdnas.serve.limits import Limits
from tests.serve.conftest import Serving

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
# Drops a picture that it draws on the page in a frame, and puts what the page then shows where --dump-dom finds it.
DROPPER = """<!doctype html><iframe id="page" src="/" style="width: 900px; height: 900px"></iframe><pre id="seen"></pre><script>
const until = async test => { for (let i = 0; i < 400 && !test(); i++) await new Promise(go => setTimeout(go, 50)); };
document.getElementById("page").onload = async () => {
  const inside = document.getElementById("page").contentDocument, view = document.getElementById("page").contentWindow;
  await until(() => inside.querySelectorAll("#model option").length === 2);
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = 200; canvas.height = 120;
  for (let i = 0; i < 400; i++) { pen.fillStyle = `hsl(${i * 37} 90% 50%)`; pen.fillRect((i * 53) % 200, (i * 29) % 120, 14, 9); }
  const blob = await new Promise(done => canvas.toBlob(done, TYPE));
  const carried = new view.DataTransfer();
  carried.items.add(new view.File([BYTES], "drawn"));
  inside.getElementById("score").value = "0.05";
  inside.getElementById("score").dispatchEvent(new view.Event("input"));
  inside.getElementById("drop").dispatchEvent(new view.DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
  await until(() => / in |not an image|cannot/.test(inside.getElementById("status").textContent));
  const boxes = inside.querySelectorAll("#rows tr").length, size = inside.getElementById("canvas");
  const models = [...inside.querySelectorAll("#model option")].map(one => one.value);
  const text = id => inside.getElementById(id).innerText;
  const seen = [text("status"), boxes, size.width, size.height, models, text("rows")];
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = (files("jdnas.serve") / "page.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|https?://|@import|url\(""", text)


def _seen_in_browser(url: str, profile: Path) -> re.Match[str]:
    """Return what the page at `url` put into #seen; on a busy machine virtual time can run out first, so it has three tries."""
    assert CHROMIUM is not None
    for attempt in range(3):
        run = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={profile / str(attempt)}", "--virtual-time-budget=60000", "--dump-dom", url],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        if found := re.search(r'<pre id="seen">(.+?)</pre>', run.stdout, re.S):
            return found
    raise AssertionError(run.stdout[-500:] + run.stderr[-500:])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("content", ["image/png", "image/jpeg", "text"])
def test_a_dropped_image_shows_its_boxes(serving: Serving, tmp_path: Path, content: str) -> None:
    with serving(Limits(timeout_s=20)) as server:
        page = DROPPER.replace("TYPE", repr(content)).replace("BYTES", '"no image"' if content == "text" else "blob")
        server.app.add_api_route("/dropper", lambda: HTMLResponse(page))
        found = _seen_in_browser(f"http://{server.address}/dropper", tmp_path)
        status, boxes, width, height, models, listed = json.loads(html.unescape(found[1]))
        assert models == ["second", "tiny"]
        if content == "text":
            assert "not an image" in status and boxes == 0
        else:
            assert boxes > 0 and status.startswith(f"{boxes} object") and (width, height) == (200, 120)
            assert re.search("circle|square|triangle", listed)
