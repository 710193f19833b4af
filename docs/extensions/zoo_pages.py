"""A page of the site for each optimizer, made from its page in the zoo, its specimen and the records."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from docs.extensions import drawings
from optizoo import zoo
from optizoo.core.options import OURS, SHARED, TORCHS
from optizoo.testing.specimens import specimens
from scripts import zoo_table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NARROW = "\N{NARROW NO-BREAK SPACE}"


def write(folder: Path) -> None:
    """Write all pages, and remove those of optimizers that are gone. What has not changed is not touched."""
    folder.mkdir(exist_ok=True)
    made = pages()
    for file in folder.glob("*.rst"):
        if file.stem not in made:
            file.unlink()
    for name, text in made.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return every page in reStructuredText by its name: ``index``, ``options``, and one for each optimizer."""
    return {"index": index(), "options": options(), **{name: page(name) for name in zoo.list_optimizers()}}


def index() -> str:
    """Return the page that lists all optimizers."""
    rows = [
        [f":doc:`{kind.__name__} <{name}>`", _text(_summary(kind)), _links(zoo_table.papers(rule))]
        for name, kind in _kinds()
        for _, rule, _ in [next(iter(zoo_table.uses(kind)))]
    ]
    return _page(
        "The optimizers",
        "Sorted by the complexity of their rules. Each page is made from the optimizer's page in ``optizoo/zoo``, from "
        "its specimen in ``optizoo/testing/specimens``, and from the records in ``benchmarks``. All of them take the "
        ":doc:`options that optimizers share <options>`.",
        _table(["optimizer", "what it is", "paper"], rows, "20 55 25"),
        _heading("How the paths are drawn"),
        f"Each page has a picture of {drawings.STEPS} steps down a quadratic valley that is {drawings.CONDITION:g} "
        f"times as steep across as along, from one start, with that of {len(drawings.RATES)} rates from "
        f"{drawings.RATES[0]:g} to {drawings.RATES[-1]:g} whose path is lowest on average, and the other options at "
        "their defaults. The valley has no "
        "noise and two weights: it shows how a rule moves, and does not say which optimizer is better.",
        ".. toctree::\n   :hidden:\n\n   options\n" + "".join(f"   {name}\n" for name, _ in _kinds()),
    )


def options() -> str:
    """Return the page of the options that all optimizers share."""

    def rows(names: Sequence[str]) -> list[list[str]]:
        shared = [(name, *SHARED[name]) for name in names if name in SHARED]
        return [
            [f"``{name}``", f"``{option.default!r}``", _text(" ".join(option.meaning.split()))]
            for name, _, option in shared
        ]

    head = ["option", "default", "meaning"]
    return _page(
        "Options of all optimizers",
        "Every optimizer takes them by keyword, beside its own; a param group may have values of its own. Where the "
        "default of an optimizer is another, its page says so.",
        _heading("As torch.optim has them"),
        _table(head, rows(TORCHS), "22 18 60"),
        _heading("Those that torch lacks"),
        _table(head, rows(OURS), "22 18 60"),
    )


def page(name: str) -> str:
    """Return the page of an optimizer."""
    kind: Any = zoo.optimizer_class(name)
    title = kind.__name__
    prose, sections = _sections(inspect.getdoc(kind) or "")
    uses = [*zoo_table.uses(kind)]
    rules = [
        rule for rule in dict.fromkeys(rule for _, rule, _ in uses) if rule is uses[0][1] or _homes()[rule] == name
    ]
    twin = kind.namesake
    facts = [
        ["paper", _links("; ".join(dict.fromkeys(filter(None, map(zoo_table.papers, rules)))) or "–")],
        ["drop-in for", f"``torch.optim.{twin.__name__}``" if twin else "–, torch has none"],
        ["state", _links(", ".join(dict.fromkeys(zoo_table.states(kind, rule) for rule in rules)))],
        ["proven against", _links(zoo_table.proven(kind, twin))],
        ["by name", f'``optizoo.create("{name}", model)``'],
    ]
    summary, _, rest = prose.partition("\n")
    drawing, said = drawings.draw_path(name)
    return _page(
        title,
        _text(summary),
        _table(None, facts, "20 80"),
        _heading("Equation and what to know"),
        _text(rest),
        _heading("The rule"),
        *_rules(name, uses),
        _heading("Signature"),
        *_signature(kind, sections.get("Args", "")),
        *(
            [_heading("State"), _text(sections["Attributes"].removeprefix("state: "))]
            if "Attributes" in sections
            else []
        ),
        _heading("Path"),
        _figure(drawing, said),
        _heading("Proven"),
        *_proven(name),
        *_speed(name),
        *([_heading("Example"), _code(sections["Example"], "pycon")] if "Example" in sections else []),
    )


# Parts ----------------------------------------------------------------------------------------------------------------


def _kinds() -> Iterator[tuple[str, Any]]:
    return ((title.lower(), kind) for title, kind in zoo.classes().items())


def _summary(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _sections(doc: str) -> tuple[str, dict[str, str]]:
    """Return the prose of a docstring, and its sections by their titles."""
    prose, *found = re.split(r"^(Args|Attributes|Raises|Example|Returns):\n", doc, flags=re.MULTILINE)
    return prose.strip(), {
        title: textwrap.dedent(body).strip("\n") for title, body in zip(found[::2], found[1::2], strict=True)
    }


def _rules(name: str, uses: Sequence[tuple[str, Any, str]]) -> Iterator[str]:
    """Yield the text of the rules that are at home on a page, and of the functions that stand beside them."""
    several = len({rule for _, rule, _ in uses}) > 1
    first = {rule: label for label, rule, _ in reversed(uses)}
    for rule in dict.fromkeys(rule for _, rule, _ in uses):
        label, home = first[rule], _homes()[rule]
        if home != name:
            title = zoo.optimizer_class(home).__name__
            yield f"``{label}`` has the rule of :doc:`{title} <{home}>`."
        elif several:
            yield f"``{label}``:"
            yield from _shown(rule)
    if not several and _homes()[uses[0][1]] == name:
        yield from _shown(uses[0][1])
    used = [rule for _, rule, _ in uses]
    for function, home in _homes().items():
        if home == name and function not in used:
            yield from _shown(function)


def _shown(rule: Any) -> Iterator[str]:
    yield _text(inspect.getdoc(rule) or "")
    yield _code(without_docstring(inspect.getsource(rule)), "python")


@lru_cache
def _homes() -> dict[Any, str]:
    """Return for every rule, and every function beside one, the optimizer on whose page it is shown.

    That is one that has it by default, where there is one; for a function the first whose rule calls it.
    """
    uses = [(name, rule, option) for name, kind in _kinds() for _, rule, option in zoo_table.uses(kind)]
    uses.sort(key=lambda use: bool(use[2]))
    uses += [(name, kind.evaluated, "") for name, kind in _kinds() if kind.evaluated is not None]
    found: dict[Any, str] = {}
    for name, rule, _ in uses:
        found.setdefault(rule, name)
    for rule, name in [*found.items()]:
        called = {node.id for node in ast.walk(ast.parse(inspect.getsource(rule))) if isinstance(node, ast.Name)}
        for function, value in zoo.rules().items():
            if function in called and value.__module__ == rule.__module__:
                found.setdefault(value, name)
    return found


def without_docstring(source: str) -> str:
    """Return the text of a function without its docstring."""
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    first, lines = function.body[0], source.splitlines()
    if ast.get_docstring(function) is not None:
        del lines[first.lineno - 1 : first.end_lineno]
    return "\n".join(line.removesuffix("  # fmt: skip") for line in lines)


def _signature(kind: Any, arguments: str) -> Iterator[str]:
    parameters = inspect.signature(kind).parameters
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in SHARED or parameter.default != SHARED[name][1].default
    }
    shown = [name if p.default is p.empty else f"{name}={p.default!r}" for name, p in own.items()]
    yield _code(
        textwrap.fill(f"optizoo.{kind.__name__}({', '.join([*shown, '...'])})", 92, subsequent_indent="    "), "python"
    )
    meanings = dict(re.findall(r"^(\w+): (.*(?:\n .*)*)", arguments, re.MULTILINE))
    rows = [
        [
            f"``{name}``",
            "–" if p.default is p.empty else f"``{p.default!r}``",
            _text(" ".join(meanings.get(name, "–").split())),
        ]
        for name, p in own.items()
    ]
    yield _table(["option", "default", "meaning"], rows, "22 18 60")
    yield "The dots stand for the :doc:`options of all optimizers <options>`."


def _states(attributes: str) -> Iterator[str]:
    if attributes:
        yield _heading("State")
        yield _text(attributes.removeprefix("state: "))


def _proven(name: str) -> Iterator[str]:
    specimen = specimens()[name]
    cells = [cell for cell in _record("verify_cpu.json").get("cells", ()) if cell["optimizer"] == name]
    if cells:
        groups: dict[tuple[str, str], list[Any]] = {}
        for cell in cells:
            groups.setdefault((re.sub(r",? (tier )?T\d$", "", cell["reference"]), cell["backend"]), []).append(cell)
        rows = [[*key, *_verified(each)] for key, each in groups.items()]
        yield "``optizoo verify`` on the CPU, in combinations of options; apart are the parameters after all steps:"
        yield _table(["held against", "backend", "types", "options", "steps", "apart", "result"], rows)
    if specimen.references:
        rows = [[f"``{each.path}``", *_reference(name, each)] for each in specimen.references]
        yield "Other packages, in float64; the distance is relative to the way that the weights have gone:"
        yield _table(
            ["class", "package", "options", "steps", "distance", "what it does otherwise"], rows, "24 18 8 8 12 30"
        )
    yield (
        f"The proof kit rejects all {len(specimen.mutants)} deliberate mistakes in this rule: "
        f"{', '.join(f'``{mutant.name}``' for mutant in specimen.mutants)}."
        if specimen.mutants
        else "The proof kit has no mutants of its own for this rule, which is another's."
    )


def _verified(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    types = ", ".join(dict.fromkeys(cell["dtype"] for cell in cells))
    options, steps = len({cell["options"] for cell in cells}), max(cell["steps"] for cell in cells)
    result = "pass" if all(cell["passed"] for cell in cells) else "**fails**"
    return [types, str(options), str(steps), _apart(cells), result]


def _apart(cells: Iterable[Mapping[str, Any]]) -> str:
    found = [cell["params_ulp_last"] for cell in cells if cell.get("params_ulp_last") is not None]
    return f"{max(found):g} ulp" if found else "within tier"


def _reference(name: str, reference: Any) -> list[str]:
    rows = [
        row
        for row in _record("references.json").get("references", ())
        if (row["optimizer"], row["reference"]) == (name, reference.path) and row["message"] == reference.fault
    ]
    measured = [row["distance"] for row in rows if row["distance"] is not None]
    version = rows[0]["version"] if rows else reference.version
    steps = str(max((row["steps"] for row in rows), default=0)) if rows else "–"
    distance = f"{max(measured):.0e}" if measured else "–"
    package = f"{reference.distribution} {version}"
    return [package, str(len(rows) or "–"), steps, distance, _text(reference.fault) or "nothing"]


def _speed(name: str) -> Iterator[str]:
    found = []
    for file in ("step_cpu.json", "step_references_cpu.json"):
        record = _record(file)
        for each in record if isinstance(record, list) else [record] if record else []:
            found += [(each["environment"], cell) for cell in each["cells"] if cell["optimizer"] == name]
    if not found:
        return
    yield _heading("Speed")
    environment = found[0][0]
    yield (
        "Median time of a step as it comes, beside the fastest of the others in the same process; "
        f"{environment['threads']} threads, float32, torch {environment['torch'].partition('+')[0]}, "
        f"{environment['cpu']}:"
    )
    rows = []
    for _, cell in found:
        other = cell.get("torch_fastest") or cell["fastest"]
        times = [microseconds(cell["sides"][side]["us"]) for side in ("optizoo default", other)]
        rows.append([cell["workload"], times[0], other, times[1], f"{cell['ratio']:.2f}"])
    yield _table(["workload", "optizoo", "fastest other", "its time", "times as fast"], rows)


def microseconds(number: float) -> str:
    """Return microseconds as a text that no line breaks."""
    return f"{number:,.0f} µs".replace(",", NARROW).replace(" ", NARROW)


def _record(file: str) -> Any:
    path = BENCHMARKS / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# reStructuredText -----------------------------------------------------------------------------------------------------


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *filter(None, parts)]) + "\n"


def _heading(title: str) -> str:
    return f"{title}\n{'-' * len(title)}"


def _code(text: str, language: str) -> str:
    return f".. code-block:: {language}\n\n" + textwrap.indent(text.rstrip(), "   ")


def _figure(drawing: str, said: str) -> str:
    figure = f"<figure>\n{drawing}\n<figcaption>{said}</figcaption>\n</figure>"
    return ".. raw:: html\n\n" + textwrap.indent(figure, "   ")


def _table(head: Sequence[str] | None, rows: Iterable[Sequence[str]], widths: str = "") -> str:
    lines = [".. list-table::", "   :align: left"]
    lines += ["   :header-rows: 1"] * (head is not None) + [f"   :widths: {widths}"] * bool(widths)
    lines.append("")
    for row in [head, *rows] if head is not None else rows:
        for index, cell in enumerate(row):
            lines.append(("   * - " if index == 0 else "     - ") + textwrap.indent(cell, " " * 7).strip())
    return "\n".join(lines)


def _line(doc: str) -> str:
    """Return the text of a docstring in one line."""
    return _text(" ".join(doc.split()))


def _links(text: str) -> str:
    """Return Markdown's links and names as reStructuredText has them."""
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)


def _text(doc: str) -> str:
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
        if role == "func" and (rule := zoo.rules().get(name)) in _homes():
            return f":doc:`{name} <{_homes()[rule]}>`"
    return f"``{target}``"
