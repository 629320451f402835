"""Reports in a real browser (`make test-browser`; needs Debian's chromium or another on the PATH)."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from sglang_hisa.launch.ab import report as ab_report
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.load import report as load_report
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.ab import records as ab_records
from tests.launch.common.test_pages import WRITE
from tests.launch.load import records as load_records

pytestmark = pytest.mark.browser

PROBE = r"""
<pre id="seen"></pre>
<script>
window.onload = () => {
  const facts = i => [i.alt, i.complete, i.naturalWidth, i.naturalHeight, inked(i)];
  const images = [...document.images].map(facts);
  const tables = [...document.querySelectorAll("table")].map(t => t.rows.length);
  const style = getComputedStyle(document.body), light = [style.backgroundColor, style.color].map(
    colour => Math.max(...colour.match(/[\d.]+/g).slice(0, 3).map(Number)));
  const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const seen = {images, tables, over, light, title: document.title};
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
function inked(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height).data, colours = new Set();
  for (let i = 0; i < data.length; i += 4) colours.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
  return colours.size;
}
</script>
"""


def look(page, profile, width=1280, dark=False):
    """What the browser drew of ``page``: images (with their number of colours), tables, sideways overflow,
    and how light background and text are (0 to 255)."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert browser, "no Chromium on the PATH (Debian: apt-get install chromium)"
    probed = page.with_name("probed.html")
    text = page.read_text()
    if dark:  # Chromium has no flag for it without a screen
        text = text.replace("(prefers-color-scheme: dark)", "(min-width: 1px)")
    probed.write_text(text + PROBE)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    flags += [f"--window-size={width},900", "--virtual-time-budget=10000", "--dump-dom", probed.as_uri()]
    done = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


def assert_drawn(seen, images):
    assert {name for name, *_ in seen["images"]} == images
    for name, complete, width, height, colours in seen["images"]:
        assert complete and width > 300 and height > 150 and colours > 20, name
    assert seen["over"] <= 0, "the page scrolls sideways"


def test_ab_report(tmp_path):
    record = ab_records.make({"stock": 1.0, "paper": 1.5, "balanced": 0.9})
    ab_report.write(ab_records.typed(record), tmp_path)
    seen = look(tmp_path / "report.html", tmp_path / "profile")
    assert_drawn(seen, {"ttft.png", "itl.png", "speedup.png"})
    assert seen["tables"][0] == 1 + len(ab_records.CELLS)


def test_load_report(tmp_path):
    answers = {1: [load_records.answer(0.5)] * 4, 2: [load_records.answer(1.0)] * 8}
    load_report.write(read(LoadRecord, load_records.make(answers)), tmp_path)
    seen = look(tmp_path / "report.html", tmp_path / "profile")
    assert len(seen["images"]) >= 2
    assert_drawn(seen, {name for name, *_ in seen["images"]})


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("width", [400, 1280])
def test_every_page_fits_its_window_by_day_and_by_night(name, width, tmp_path):
    WRITE[name](tmp_path)
    for dark in (False, True):
        seen = look(tmp_path / "report.html", tmp_path / "profile", width, dark)
        assert_drawn(seen, {image for image, *_ in seen["images"]})
        assert seen["images"] and seen["tables"] and seen["tables"][0] > 1
        background, text = seen["light"]
        assert (background < 60 and text > 190) if dark else text < 60
