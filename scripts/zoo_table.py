"""Print the table of the zoo: what each rule is, who has it, which states it keeps, what it is proven against.

All but the last column comes from the pages; the distances from other packages are those of the record that
``optizoo verify --references --json benchmarks/references.json`` makes.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from optizoo import zoo
from optizoo.core.rule import schema

HEAD = "| class | rule | paper | state | proven against |\n|---|---|---|---|---|\n"
RECORD = Path(__file__).parents[1] / "benchmarks" / "references.json"


def format_markdown() -> str:
    """Return the table, a row for each rule, in the order of ``optizoo.list_optimizers()``."""
    users: dict[Any, list[tuple[str, Any]]] = {}
    for kind in zoo.classes().values():
        for label, rule, option in uses(kind):
            twin = kind.namesake if option not in kind.neutral_extras else None
            users.setdefault(rule, []).append((label, (kind, twin)))
    rows = []
    for rule, found in users.items():
        labels = ", ".join(f"`{label}`" for label, _ in found)
        kind, twin = found[-1][1]
        cells = [labels, equation(rule), papers(rule), states(kind, rule), proven(kind, twin)]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return HEAD + "\n".join(rows)


def uses(kind: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield which rule a class has by default, and which with one option: label, rule, option."""
    optimizer = kind([torch.nn.Parameter(torch.zeros([1] * kind.least_dimensions))])
    group = optimizer.complete(optimizer.param_groups[0])
    usual = optimizer.select_rule(group)
    yield kind.__name__, usual, ""
    for option in inspect.signature(kind).parameters:
        if option in kind.checks and not group[option]:
            rule = optimizer.select_rule({**group, option: True})
            if rule is not usual:
                said = re.search(rf"\n    {option}: (.+?)[,.]", kind.__doc__)
                value = "True" if group[option] is False else said[1] if said else "..."
                yield f"{kind.__name__}({option}={value})", rule, option


def equation(rule: Any) -> str:
    """Return a rule's equation in one line, as the summary of its docstring has it."""
    summary = rule_doc(rule).partition("\n")[0].removesuffix(".")
    return summary.partition(": ")[2] or summary


def papers(rule: Any) -> str:
    """Return the papers that a rule names and links as its source."""
    source = " ".join(rule_doc(rule).partition("Source: ")[2].split())
    found = re.findall(r"(\w+: )?([^;:()]+?) \((\d{4})\)[^;]*?(https://[^\s;]+)", source)
    return ", ".join(f"{part}[{authors.strip()} {year}]({link.rstrip('.,')})" for part, authors, year, link in found)


def states(kind: Any, rule: Any) -> str:
    """Return the names of the states that a class keeps with a rule, those that an option switches on in brackets."""
    always = ["step"] * kind.counts_steps + [*schema(rule).numbers]
    always += [name for name in schema(rule).states if name not in kind.state_switches]
    switched = [name for name in schema(rule).states if name in kind.state_switches]
    optional = [f"({', '.join(f'`{name}`' for name in switched)})"] if switched else []
    return ", ".join([*(f"`{name}`" for name in always), *optional]) or "–"


def proven(kind: Any, twin: Any) -> str:
    """Return what an optimizer equals: torch's bit for bit, other packages up to the largest measured distance."""
    if twin is not None:
        return f"`torch.optim.{twin.__name__}`, every bit"
    farthest: dict[str, float] = {}
    for row in json.loads(RECORD.read_text(encoding="utf-8"))["references"] if RECORD.exists() else ():
        if row["optimizer"] == kind.__name__.lower() and row["verdict"] == "agrees" and kind.namesake is None:
            package = f"{row['distribution']} {row['version']}"
            farthest[package] = max(row["distance"], farthest.get(package, 0.0))
    found = [f"{package} ({distance:.0e})" for package, distance in farthest.items()]
    return ", ".join([*found, "its textbook form"][: len(found) or 1])


def rule_doc(rule: Any) -> str:
    """Return the docstring of a rule with names as Markdown has them."""
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", inspect.getdoc(rule) or "").replace("``", "`")


if __name__ == "__main__":
    print(format_markdown())
