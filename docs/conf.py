"""Sphinx configuration; `make docs` builds the pages into build/docs."""

from importlib.metadata import version as installed

from docutils import nodes
from sphinx.application import Sphinx

project = "sockjs_tornado"
author = "the sockjs_tornado authors"
copyright = f"2026, {author}"
version = release = installed("sockjs-tornado")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = "sockjs_tornado"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# Not the prompts and the output of commands.
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
# Imported by the fixture for pytest only.
autodoc_mock_imports = ["pytest_asyncio"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpick_ignore_regex = [
    # Documented by other projects.
    ("py:class", r"(asyncio|collections|opentelemetry|os|pathlib|prometheus_client|socket|ssl|tornado|types)\..*"),
    # Internal types of documented attributes and parameters.
    ("py:class", r"sockjs_tornado\.(client\.options\.ConnectOptions|cluster\.base\.CheckedRooms|observe\.stats\.\w+)"),
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # Pages link to each other's sections.


def repeat_titles(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the title of its column before each cell of a table, for tables.css to show on a narrow screen."""
    for thead in doctree.findall(nodes.thead):
        for row in thead.parent[thead.parent.index(thead) + 1]:
            for title, cell in list(zip(thead[0], row, strict=True))[1:]:
                if title.astext() and cell.astext():
                    cell[0].insert(0, nodes.inline("", f"{title.astext()}: ", classes=["column-title"]))


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", repeat_titles)
