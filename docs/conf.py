"""Configuration of the site: ``sphinx-build -W -b html docs OUT`` makes a folder that is read without a network."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.extensions import zoo_pages  # noqa: E402
from optizoo import __version__  # noqa: E402

project = "optizoo"
author = "The optizoo authors"
copyright = author  # noqa: A001
version = release = __version__

extensions = ["myst_parser", "docs.extensions.mathml", "docs.extensions.generated", "docs.extensions.keyboard"]
myst_enable_extensions = ["colon_fence", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
exclude_patterns = ["extensions", "lecture", "Thumbs.db", ".DS_Store"]
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"optizoo {version}"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"

zoo_pages.write(Path(__file__).parent / "optimizers")
