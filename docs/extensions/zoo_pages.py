"""A page of the site for each optimizer, made from its page in the zoo, its specimen and the records."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.extensions import drawings
from docs.extensions import restructured as rst
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
        [f":doc:`{kind.__name__} <{name}>`", rst.text(_summary(kind)), rst.links(zoo_table.papers(rule))]
        for name, kind in rst.kinds()
        for _, rule, _ in [next(iter(zoo_table.uses(kind)))]
    ]
    return rst.page(
        "The optimizers",
        "Sorted by the complexity of their rules. Each page is made from the optimizer's page in ``optizoo/zoo``, from "
        "its specimen in ``optizoo/testing/specimens``, and from the records in ``benchmarks``. All of them take the "
        ":doc:`options that optimizers share <options>`.",
        rst.table(["optimizer", "what it is", "paper"], rows, "20 55 25"),
        rst.heading("How the paths are drawn"),
        f"Each page has a picture of {drawings.STEPS} steps down a quadratic valley that is {drawings.CONDITION:g} "
        f"times as steep across as along, from one start, with that of {len(drawings.RATES)} rates from "
        f"{drawings.RATES[0]:g} to {drawings.RATES[-1]:g} whose path is lowest on average, and the other options at "
        "their defaults. The valley has no "
        "noise and two weights: it shows how a rule moves, and does not say which optimizer is better.",
        ".. toctree::\n   :hidden:\n\n   options\n" + "".join(f"   {name}\n" for name, _ in rst.kinds()),
    )


def options() -> str:
    """Return the page of the options that all optimizers share."""

    def rows(names: Sequence[str]) -> list[list[str]]:
        shared = [(name, *SHARED[name]) for name in names if name in SHARED]
        return [
            [f"``{name}``", f"``{option.default!r}``", rst.text(" ".join(option.meaning.split()))]
            for name, _, option in shared
        ]

    head = ["option", "default", "meaning"]
    return rst.page(
        "Options of all optimizers",
        "Every optimizer takes them by keyword, beside its own; a param group may have values of its own. Where the "
        "default of an optimizer is another, its page says so.",
        rst.heading("As torch.optim has them"),
        rst.table(head, rows(TORCHS), "22 18 60"),
        rst.heading("Those that torch lacks"),
        rst.table(head, rows(OURS), "22 18 60"),
    )


def page(name: str) -> str:
    """Return the page of an optimizer."""
    kind: Any = zoo.optimizer_class(name)
    title = kind.__name__
    prose, sections = _sections(inspect.getdoc(kind) or "")
    uses = [*zoo_table.uses(kind)]
    rules = [
        rule for rule in dict.fromkeys(rule for _, rule, _ in uses) if rule is uses[0][1] or rst.homes()[rule] == name
    ]
    twin = kind.namesake
    facts = [
        ["paper", rst.links("; ".join(dict.fromkeys(filter(None, map(zoo_table.papers, rules)))) or "–")],
        ["drop-in for", f"``torch.optim.{twin.__name__}``" if twin else "–, torch has none"],
        ["state", rst.links(", ".join(dict.fromkeys(zoo_table.states(kind, rule) for rule in rules)))],
        ["proven against", rst.links(zoo_table.proven(kind, twin))],
        ["by name", f'``optizoo.create("{name}", model)``'],
    ]
    summary, _, rest = prose.partition("\n")
    drawing, said = drawings.draw_path(name)
    return rst.page(
        title,
        rst.text(summary),
        rst.table(None, facts, "20 80"),
        rst.heading("Equation and what to know"),
        rst.text(rest),
        rst.heading("The rule"),
        *_rules(name, uses),
        rst.heading("Signature"),
        *_signature(kind, sections.get("Args", "")),
        *(
            [rst.heading("State"), rst.text(sections["Attributes"].removeprefix("state: "))]
            if "Attributes" in sections
            else []
        ),
        rst.heading("Path"),
        rst.figure(drawing, said),
        rst.heading("Proven"),
        *_proven(name),
        *_speed(name),
        *([rst.heading("Example"), rst.code(sections["Example"], "pycon")] if "Example" in sections else []),
    )


# Parts ----------------------------------------------------------------------------------------------------------------


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
        label, home = first[rule], rst.homes()[rule]
        if home != name:
            title = zoo.optimizer_class(home).__name__
            yield f"``{label}`` has the rule of :doc:`{title} <{home}>`."
        elif several:
            yield f"``{label}``:"
            yield from _shown(rule)
    if not several and rst.homes()[uses[0][1]] == name:
        yield from _shown(uses[0][1])
    used = [rule for _, rule, _ in uses]
    for function, home in rst.homes().items():
        if home == name and function not in used:
            yield from _shown(function)


def _shown(rule: Any) -> Iterator[str]:
    yield rst.text(inspect.getdoc(rule) or "")
    yield rst.code(without_docstring(inspect.getsource(rule)), "python")


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
    yield rst.code(
        textwrap.fill(f"optizoo.{kind.__name__}({', '.join([*shown, '...'])})", 92, subsequent_indent="    "), "python"
    )
    meanings = dict(re.findall(r"^(\w+): (.*(?:\n .*)*)", arguments, re.MULTILINE))
    rows = [
        [
            f"``{name}``",
            "–" if p.default is p.empty else f"``{p.default!r}``",
            rst.text(" ".join(meanings.get(name, "–").split())),
        ]
        for name, p in own.items()
    ]
    yield rst.table(["option", "default", "meaning"], rows, "22 18 60")
    yield "The dots stand for the :doc:`options of all optimizers <options>`."


def _states(attributes: str) -> Iterator[str]:
    if attributes:
        yield rst.heading("State")
        yield rst.text(attributes.removeprefix("state: "))


def _proven(name: str) -> Iterator[str]:
    specimen = specimens()[name]
    cells = [cell for cell in _record("verify_cpu.json").get("cells", ()) if cell["optimizer"] == name]
    if cells:
        groups: dict[tuple[str, str], list[Any]] = {}
        for cell in cells:
            groups.setdefault((re.sub(r",? (tier )?T\d$", "", cell["reference"]), cell["backend"]), []).append(cell)
        rows = [[*key, *_verified(each)] for key, each in groups.items()]
        yield "``optizoo verify`` on the CPU, in combinations of options; apart are the parameters after all steps:"
        yield rst.table(["held against", "backend", "types", "options", "steps", "apart", "result"], rows)
    else:
        yield (
            f"The record of ``optizoo verify`` is older than this optimizer: ``optizoo verify`` holds it against "
            f"{f'``torch.optim.{specimen.twin}``' if specimen.twin else 'its textbook form'} on your machine."
        )
    if specimen.references:
        rows = [[f"``{each.path}``", *_reference(name, each)] for each in specimen.references]
        yield "Other packages, in float64; the distance is relative to the way that the weights have gone:"
        yield rst.table(
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
    distance = "–" if not measured else f"{max(measured):.0e}" if any(measured) else "every bit"
    package = f"{reference.distribution} {version}"
    return [package, str(len(rows) or "–"), steps, distance, rst.text(reference.fault) or "nothing"]


def _speed(name: str) -> Iterator[str]:
    found = []
    for file in ("step_cpu.json", "step_references_cpu.json"):
        record = _record(file)
        for each in record if isinstance(record, list) else [record] if record else []:
            found += [(each["environment"], cell) for cell in each["cells"] if cell["optimizer"] == name]
    if not found:
        return
    yield rst.heading("Speed")
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
    yield rst.table(["workload", "optizoo", "fastest other", "its time", "times as fast"], rows)


def microseconds(number: float) -> str:
    """Return microseconds as a text that no line breaks."""
    return f"{number:,.0f} µs".replace(",", NARROW).replace(" ", NARROW)


def _record(file: str) -> Any:
    path = BENCHMARKS / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
