"""What readers with a keyboard or a screen reader lack in pages as Sphinx and its theme make them."""

from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Mend every page when the theme is done with it."""
    app.connect("html-page-context", _mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _mend(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:  # noqa: ARG001
    """Let wide code be scrolled by keys, and say of which level the headings of the navigation are."""
    if "body" in context:
        context["body"] = context["body"].replace("<pre>", '<pre tabindex="0">')
    if "furo_navigation_tree" in context:
        tree = context["furo_navigation_tree"]
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
