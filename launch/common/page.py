"""One HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left }
th { background: #f2f2f2 }
.note { background: #fde8e8; border-left: 5px solid #c0392b; padding: .5rem .8rem; margin: .4rem 0;
  font-weight: 600 }
.scroll { overflow-x: auto }
img { max-width: 100%; display: block; margin: 1rem 0 }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto }
footer, small { color: #666 }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
td { overflow-wrap: break-word }
td:first-child { white-space: nowrap }
img { background: #fff }
.faster { background: #dcf3e0 } .slower { background: #fbdcda } .few { background: #fdf3d0 }
@media (max-width: 40rem) {
  body { font-size: 14px; margin: .5rem auto; padding: 0 .6rem }
  th, td { padding: .2rem .35rem }
}
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark }
  body { background: #16181c; color: #e4e4e4 }
  th { background: #24272d }
  th, td { border-color: #444 }
  .note { background: #47201d; color: #ffe3e0 }
  pre { background: #22252a }
  footer, small { color: #a8a8a8 }
  a { color: #8ab8ff }
  .faster { background: #1d4526 } .slower { background: #5a2320 } .few { background: #4d4213 }
}
"""


def render(body: str, pictures: Mapping[str, bytes], **fields: Any) -> str:
    """``body`` (a jinja2 template) as a page; every field is escaped.

    The template gets ``fields`` and ``pictures``, base64 PNG by name; ``title`` of the fields names the page.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_FRAME.replace("@body@", body))
    images = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    return page.render(pictures=images, style=STYLE, **fields)


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
@body@
</body>
</html>
"""
