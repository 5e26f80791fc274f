"""The site of these pages: ``make docs``. Warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import manualbp  # noqa: E402 - from this clone

project = "manualbp"
author = copyright = "The manualbp developers"
version = release = manualbp.__version__

extensions = [
    "myst_nb",  # Markdown pages, and notebooks, which are executed
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",  # options of the command lines, from their parsers
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes are a list, not an entry each
maximum_signature_line_length = 120  # longer ones have a line for each argument
smartquotes_action = "D"  # dashes alone: "mean" and ... stay as they are written
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "manualbp"
html_show_sourcelink = False
html_math_renderer = "mathml"


def _inline(page, node: nodes.math) -> None:
    page.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(page, node: nodes.math_block) -> None:
    page.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app) -> None:
    """Formulas are MathML, which browsers draw themselves: no script from elsewhere."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
