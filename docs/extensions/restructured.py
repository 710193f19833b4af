"""Texts as reStructuredText has them, with the references of docstrings as links between the pages of the site."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from optizoo import zoo
from scripts import zoo_table


def kinds() -> Iterator[tuple[str, Any]]:
    """Return the names of all optimizers and their classes, sorted by the complexity of their rules."""
    return ((title.lower(), kind) for title, kind in zoo.classes().items())


@lru_cache
def homes() -> dict[Any, str]:
    """Return for every rule, and every function beside one, the optimizer on whose page it is shown.

    That is one that has it by default, where there is one; for a function the first whose rule calls it.
    """
    uses = [(name, rule, option) for name, kind in kinds() for _, rule, option in zoo_table.uses(kind)]
    uses.sort(key=lambda use: bool(use[2]))
    uses += [(name, kind.evaluated, "") for name, kind in kinds() if kind.evaluated is not None]
    found: dict[Any, str] = {}
    for name, rule, _ in uses:
        found.setdefault(rule, name)
    for rule, name in [*found.items()]:
        called = {node.id for node in ast.walk(ast.parse(inspect.getsource(rule))) if isinstance(node, ast.Name)}
        for function, value in zoo.rules().items():
            if function in called and value.__module__ == rule.__module__:
                found.setdefault(value, name)
    return found


def page(title: str, *parts: str) -> str:
    """Return a page of its title and its parts."""
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *filter(None, parts)]) + "\n"


def heading(title: str) -> str:
    """Return the heading of a section."""
    return f"{title}\n{'-' * len(title)}"


def code(text: str, language: str) -> str:
    """Return a block of code."""
    return f".. code-block:: {language}\n\n" + textwrap.indent(text.rstrip(), "   ")


def figure(drawing: str, said: str) -> str:
    """Return a drawing with the sentence under it."""
    html = f"<figure>\n{drawing}\n<figcaption>{said}</figcaption>\n</figure>"
    return ".. raw:: html\n\n" + textwrap.indent(html, "   ")


def table(head: Sequence[str] | None, rows: Iterable[Sequence[str]], widths: str = "") -> str:
    """Return a table, with a header or without."""
    lines = [".. list-table::", "   :align: left"]
    lines += ["   :header-rows: 1"] * (head is not None) + [f"   :widths: {widths}"] * bool(widths)
    lines.append("")
    for row in [head, *rows] if head is not None else rows:
        for index, cell in enumerate(row):
            lines.append(("   * - " if index == 0 else "     - ") + textwrap.indent(cell, " " * 7).strip())
    return "\n".join(lines)


def line(doc: str) -> str:
    """Return the text of a docstring in one line."""
    return text(" ".join(doc.split()))


def links(text: str) -> str:
    """Return Markdown's links and names as reStructuredText has them."""
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)


def text(doc: str) -> str:
    """Return the text of a docstring with its references as links, and with bars and stars as they stand."""
    parts = re.split(r"(\.\. math::\n(?:[ ]+.*\n|\n)*|``[^`]+``|:\w+:`[^`]+`|https?://\S+)", doc)
    parts[::2] = [re.sub(r"([|*]|(?<=\w)_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [re.sub(r"^:(\w+):`~?([^`<]+)`$", _reference_to, part) for part in parts[1::2]]
    return "".join(parts).strip()


def _reference_to(found: re.Match[str]) -> str:
    role, target = found.groups()
    module, _, name = target.rpartition(".")
    if role == "math":
        return found[0]
    if not module.startswith("torch"):
        if role == "class" and name in zoo.classes():
            return f":doc:`{name} <{name.lower()}>`"
        if role == "func" and (rule := zoo.rules().get(name)) in homes():
            return f":doc:`{name} <{homes()[rule]}>`"
    return f"``{target}``"
