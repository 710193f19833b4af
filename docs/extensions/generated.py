"""The directive ``generated``, which puts a text of :mod:`docs.extensions.records` into a page."""

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from docs.extensions.records import MADE


class Generated(SphinxDirective):
    """Put the text of that name in the place of the directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the text."""
        made = nodes.Element()
        lines = MADE[self.arguments[0]]().splitlines()
        self.state.nested_parse(StringList(lines, self.arguments[0]), self.content_offset, made)
        return made.children


def setup(app: Any) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
