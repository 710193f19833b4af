"""Text that a page takes from the package, its tests and its records, as Markdown; each is a name in :data:`MADE`."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docs.extensions import drawings, zoo_pages

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
CODE = "<code class='literal docutils'>"
OURS = "optizoo default"


def works_with() -> str:
    """Return the table of who works with optizoo's optimizers."""
    from scripts import works_with

    return works_with.format_markdown(_record("works_with.json")).replace("](tests/", "](../tests/")


def step_times() -> str:
    """Return the table of steps beside torch's."""
    from optizoo.lab.step_benchmark import format_markdown

    return re.sub(r"(?<=\d) (?=\d|µs)", zoo_pages.NARROW, format_markdown(_record("step_cpu.json")))


def reference_times() -> str:
    """Return the table of steps beside those of other packages."""
    rows = [
        (cell["optimizer"], cell["workload"], cell["fastest"], zoo_pages.microseconds(cell["sides"][OURS]["us"]),
         f"{cell['ratio']:.2f}")
        for record in _record("step_references_cpu.json")
        for cell in record["cells"]
    ]  # fmt: skip
    return _table(("optimizer", "workload", "fastest of the others", "optizoo", "times as fast"), rows)


def accuracies() -> str:
    """Return the tables of the comparisons on CIFAR-10, with the distance from the best and whether it is chance."""
    from optizoo.lab.statistics import is_significant, paired_bootstrap

    parts = []
    for model, name in (("linear", "Linear softmax"), ("two_layer", "Two layers, 256 hidden")):
        best, *others = [*_lines(BENCHMARKS / f"cifar10_{model}" / "results.jsonl")]
        rows = [(*_accuracy(best), "–", "")]
        for row in others:
            pair = best["test_accuracies"], row["test_accuracies"]
            behind = paired_bootstrap(*pair)
            interval = f"{100 * behind.mean:.2f} [{100 * behind.low:.2f}, {100 * behind.high:.2f}]"
            rows.append((*_accuracy(row), interval, "behind" if is_significant(*pair) else "cannot be told apart"))
        head = ("optimizer", "schedule", "test accuracy", "seeds", "behind the best (points)", f"beside {rows[0][0]}")
        equal = sum(row[-1] == "cannot be told apart" for row in rows)
        said = f"{equal} of {len(others)} cannot be told apart from the best."
        parts += [f"**{name}.** {said}", _table(head, rows)]
    return "\n\n".join(parts)


def _accuracy(row: dict[str, Any]) -> tuple[str, str, str, str]:
    accuracy = f"{100 * row['test_accuracy_mean']:.2f} ± {100 * row['test_accuracy_std']:.2f} %"
    return row["optimizer"], row["schedule"], accuracy, str(row["finished"])


def sweeps() -> str:
    """Return the leaderboards of the recorded sweeps, with what they say of differences."""
    parts = []
    for file in sorted(BENCHMARKS.glob("sweeps/*/leaderboard.txt")):
        table, _, said = file.read_text(encoding="utf-8").partition("\n\n")
        parts += [f"**{file.parent.name}.** {' '.join(said.split())}", _from_text(table)]
    return "\n\n".join(parts) or "No sweep is recorded yet; until then the comparisons below are all there is."


def _from_text(table: str) -> str:
    """Return a table of :func:`optizoo.tables.text_table` in Markdown."""
    head, rule, *rows = table.splitlines()
    columns = [(found.start(), found.end()) for found in re.finditer("-+", rule)]
    cells = [tuple(line[start:end].strip() for start, end in columns) for line in (head, *rows)]
    return _table(cells[0], cells[1:])


def torch_faults() -> str:
    """Return the table of torch's faults and surprises, from the tests that show them."""
    return _tests(ROOT / "tests" / "test_torch_faults.py")


def faults() -> str:
    """Return the table of faults that a run survives, from the tests of each."""
    files = sorted((ROOT / "tests" / "faults").glob("test_*.py"))
    return "\n\n".join(f"{_first_line(file)}\n\n{_tests(file)}" for file in files)


def curves() -> str:
    """Return every schedule with its text, its formula and its curve."""
    parts = []
    for text, schedule in drawings.SCHEDULES.items():
        summary = " ".join((inspect.getdoc(schedule) or "").partition("\n\nArgs:")[0].split())
        summary = re.sub(r"``?([^`]+)``?", rf"{CODE}\1</code>", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", summary))
        parts += [
            f"<section class='schedule'><div>{drawings.draw_curve(text, schedule)}</div>"
            f"<div><p>{CODE}{text}</code></p><p>{_linked(summary)}</p></div></section>"
        ]
    return "\n\n".join(["```{raw} html", *parts, "```"])


def lecture() -> str:
    """Return the table of the lecture's experiments."""
    from optizoo.lab.book import verdicts
    from scripts import lecture_table

    return verdicts(lecture_table.FOLDER)


def references() -> str:
    """Return the table of other packages' classes: ours, the options with which they are equal, and what differs."""
    from optizoo.testing.references import known
    from optizoo.zoo import optimizer_class

    rows = []
    for name, reference in sorted(known(), key=lambda each: each[1].distribution.lower()):
        title = optimizer_class(name).__name__
        names = [f"`{ours}` is `{theirs}`" for ours, theirs in reference.names.items() if isinstance(theirs, str)]
        plain = {k: v for k, v in reference.options.items() if k not in ("foreach", "triton") and not callable(v)}
        options = [f"`{option}={value!r}`" for option, value in plain.items()]
        said = f"differs: {reference.fault}" if reference.fault else "equal"
        rows.append((f"`{reference.path}`", f"[{title}](optimizers/{name}.rst)", ", ".join(options + names), said))
    return _table(("theirs", "ours", "with their options", "after 1000 steps"), rows)


def epoch_times() -> str:
    """Return the table of epochs beside hand-written loops."""
    rows = [
        (row["optimizer"], f"{row['lab_s']:.3f} s", f"{row['in_memory_s']:.3f} s", f"{row['dataloader_s']:.2f} s")
        for row in _record("epoch_cpu.json")["rows"]
    ]
    return _table(("optimizer", "lab", "hand-written loop in memory, `torch.optim`", "`DataLoader` script"), rows)


def rule_text() -> str:
    """Return the text of the rule that the page on how it works follows."""
    from optizoo.rules import lion

    return f"```python\n{zoo_pages.without_docstring(inspect.getsource(lion))}\n```"


def traced() -> str:
    """Return its trace: the program, and the numbers of one step."""
    program, scalars = _traced("lion")
    numbers = "\n".join(f"${index} = {value!r}" for index, value in enumerate(scalars))
    return f"```text\n{program}\n\n{numbers}\n```"


def kernel() -> str:
    """Return the loop over elements of its kernel in C."""
    from optizoo.backends.emit_c import source

    program, _ = _traced("lion")
    lines = source(program, "float32", "float32").splitlines()
    first = next(index for index, line in enumerate(lines) if "const real v0" in line) - 1
    last = lines.index(lines[first][: -len(lines[first].lstrip())] + "}", first)
    return f"```c\n{textwrap.dedent(chr(10).join(lines[first : last + 1]))}\n```"


def staged() -> str:
    """Return the stages of LAMB, whose trust ratio waits for two norms."""
    from optizoo.backends.stages import stages

    program, _ = _traced("lamb")
    numbers = [number for stage in stages(program) for number in (*stage.reductions, *stage.numbers)]
    lines = [line for line in str(program).splitlines() if line.startswith(tuple(f"%{number} =" for number in numbers))]
    return "```text\n" + "\n".join(lines) + "\n```"


def _traced(name: str) -> tuple[Any, Any]:
    """Return program and scalars of a rule in its first step, with its optimizer's defaults and a decay."""
    from optizoo.backends.trace import trace
    from optizoo.core.rule import schema
    from optizoo.zoo import optimizer_class, rules

    rule, parameters = rules()[name], inspect.signature(optimizer_class(name)).parameters
    options: dict[str, Any] = {option: parameters[option].default for option in schema(rule).options}
    options |= {"weight_decay": 0.1, **({"step": 1.0} if schema(rule).names_step else {})}
    return trace(rule, schema(rule).states, **options)


MADE: dict[str, Callable[[], str]] = {
    "accuracies": accuracies,
    "curves": curves,
    "epoch-times": epoch_times,
    "faults": faults,
    "kernel": kernel,
    "lecture": lecture,
    "reference-times": reference_times,
    "references": references,
    "rule": rule_text,
    "staged": staged,
    "step-times": step_times,
    "sweeps": sweeps,
    "torch-faults": torch_faults,
    "traced": traced,
    "works-with": works_with,
}


def _tests(file: Path) -> str:
    """Return the table of the tests in a file: what each says of itself."""
    functions = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    rows = [
        (re.sub(r"``([^`]+)``", r"`\1`", " ".join(doc.split())), f"`{node.name}`")
        for node in functions
        if node.name.startswith("test_") and (doc := ast.get_docstring(node))
    ]
    return _table(("what holds", f"test in [{file.name}](../{file.relative_to(ROOT)})"), rows)


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem).partition("\n")[0]


def _linked(text: str) -> str:
    return re.sub(r"(https://[^\s,)]+)", r'<a href="\1">\1</a>', text)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _record(file: str) -> Any:
    return json.loads((BENCHMARKS / file).read_text(encoding="utf-8"))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, file.read_text(encoding="utf-8").splitlines())
