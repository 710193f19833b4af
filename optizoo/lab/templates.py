"""Pages of HTML that need no other file: templates that share one look, pictures inlined, equations as outlines."""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from optizoo.lab.pictures import usual_settings

__all__ = ["equation", "inlined", "render"]

EM = 20  # size of an equation's letters, in its own units; the page shows them at 1.25 times its own letters
LETTERS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z"}


def render(name: str, **values: Any) -> str:
    """Return a template of this folder, filled; a value that is missing is an error, and text is escaped."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inlined(image: bytes, kind: str = "png") -> str:
    """Return an image as a URL that holds it."""
    return f"data:image/{kind};base64," + base64.b64encode(image).decode()


@usual_settings
def equation(text: str) -> Markup:
    r"""Return mathematics, as matplotlib reads it between dollar signs, as inline SVG in the colour of the text.

    >>> equation(r"\theta")[:18]
    Markup('<svg class="maths"')
    """
    outline = TextPath((0, 0), f"${text}$", size=EM, prop=FontProperties(math_fontfamily="cm"))
    box = outline.get_extents()
    left, bottom, right, top = box.x0 - 1, min(box.y0, -5) - 1, box.x1 + 1, max(box.y1, 15) + 1
    words = []
    for points, code in outline.iter_segments(simplify=False, curves=True):
        numbers = " ".join(f"{number:.4g}" for number in points) if code != Outline.CLOSEPOLY else ""
        words.append(LETTERS[code] + numbers)
    width, height = right - left, top - bottom
    # The outline's y points up, the picture's down.
    return Markup(
        f'<svg class="maths" viewBox="{left:.4g} {-top:.4g} {width:.4g} {height:.4g}" '
        f'style="width:{1.25 * width / EM:.4g}em;min-width:{width / EM:.4g}em" aria-hidden="true">'
        f'<path transform="scale(1 -1)" fill="currentColor" d="{"".join(words)}"/></svg>'
    )
