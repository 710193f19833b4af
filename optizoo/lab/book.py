"""The book: runs experiments, keeps their records, and makes pages from records and from nothing else.

A folder holds, for each experiment that was run, ``<name>.jsonl`` (a :class:`~optizoo.lab.records.Record` whose further
events are the rows), its page ``<name>.html``, and ``<name>-<picture>.png`` and ``.svg``, and ``.gif`` where a picture
moves; ``report.html`` is the page of the one that was run last. A record is written beside and replaces the old one
when it is whole; one of other options is kept as ``<name>-<digest of the options>.jsonl``. :func:`write_book` makes the
page of them all from the records, and can do so again at any time. Pages need no other file, no network and no script.
"""

import argparse
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from optizoo.core.names import did_you_mean
from optizoo.lab import options as flags
from optizoo.lab import pictures, running
from optizoo.lab.experiments import EXPERIMENTS, ExperimentError, docstring, load
from optizoo.lab.files import write
from optizoo.lab.folder import Kind, check, claim, locked
from optizoo.lab.page import Page, Row, T, Track, cell, silent
from optizoo.lab.records import Record, Recorder, RecordError, environment, is_finished, is_half_written
from optizoo.lab.sources import DataError
from optizoo.lab.templates import equation, inlined, render

__all__ = [
    "add_flags",
    "missing",
    "options",
    "rows",
    "run",
    "run_all",
    "summary",
    "verdicts",
    "write_book",
    "write_report",
]

REPORT = "report.html"
BOOK = "book.html"
ROW = "row"


def options(name: str, **values: Any) -> Any:
    """Return the options of an experiment.

    Raises:
        ExperimentError: The experiment or an option is unknown, or a value is not allowed.
    """
    kind = load(name).Options
    known = [each.name for each in fields(kind)]
    for key in values:
        if key not in known:
            raise ExperimentError(f"unknown option {key!r} of {name}: {did_you_mean(key, known)}")
    try:
        return kind(**values)
    except ExperimentError as error:
        raise ExperimentError(f"{name}: {error}") from None


def add_flags(parser: argparse.ArgumentParser, name: str) -> list[str]:
    """Add a flag for each option of an experiment, and return the names of the options.

    Raises:
        ExperimentError: The experiment is unknown.
    """
    return flags.add_flags(parser, load(name).Options)


def missing(name: str, chosen: Any) -> str | None:
    """Return what an experiment lacks on this machine and how to get it, or ``None`` where it can be run."""
    if load(name).NEEDS_DATA and chosen.data == "cifar10":
        return running.missing_data()
    return None


def rows(name: str, **values: Any) -> list[Row]:
    """Run an experiment in memory and return its rows as :func:`optizoo.lab.page.Experiment.page` gets them.

    >>> {row["form"] for row in rows("momentum_forms", steps=3, cut_after=1)} == {"outside", "inside"}
    True
    """
    return _run(name, options(name, **values), None, silent)


def run(name: str, folder: str | Path, *, progress: bool = True, **values: Any) -> Path:
    """Run an experiment, write its record, pictures and ``report.html`` into ``folder``, and return the path of that.

    Raises:
        ExperimentError: The experiment or an option is unknown, or a value is not allowed.
        DataError: It needs images that are not there; the message says how to get them.
        FolderError: The folder holds something else, or another process works in it.
    """
    folder = Path(folder)
    chosen = options(name, **values)
    check(folder, BOOK_OF)
    _require(name, chosen)  # before there is a folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        claim(folder, BOOK_OF)
        _run(name, chosen, folder, _bar if progress else silent)
        return write_report(name, folder)


def run_all(folder: str | Path, *, progress: bool = True, fresh: bool = False) -> Path:
    """Run all experiments at their default size, write the book, and return its path.

    What is finished in the folder already is not run again. What this machine cannot run is listed with the reason.

    Args:
        folder: Where records, pictures and ``book.html`` go.
        progress: Show progress bars, if stderr is a terminal.
        fresh: Run also what is finished.

    Raises:
        FolderError: The folder holds something else, or another process works in it.
    """
    folder = Path(folder)
    check(folder, BOOK_OF)
    folder.mkdir(parents=True, exist_ok=True)
    track = _bar if progress else silent
    with locked(folder):
        claim(folder, BOOK_OF)
        for name in track(EXPERIMENTS, "experiments"):
            chosen = options(name)
            if missing(name, chosen) or (not fresh and _is_finished(name, chosen, folder)):
                continue
            _run(name, chosen, folder, track)
        return write_book(folder)


def summary(name: str, folder: str | Path) -> str:
    """Return what the page of an experiment says, in plain text.

    Raises:
        ExperimentError: The record is missing, unfinished, or of another version.
    """
    record, page = _page(name, Path(folder))
    headline = page.headline
    return "\n".join(
        [
            f"{headline.number}: {headline.what}",
            f"the lecture: {headline.claim} {_verdict(page, record)[0].upper()}{_verdict(page, record)[1:]}.",
            *page.seen,
        ]
    )


def verdicts(folder: str | Path) -> str:
    """Return a Markdown table of all experiments in ``folder``: number, the lecture's claim, and whether it held.

    Raises:
        ExperimentError: A record is unfinished or of another version.
    """
    lines = ["| experiment | measured | the lecture | verdict |", "| --- | --- | --- | --- |"]
    for name in EXPERIMENTS:
        if _file(name, Path(folder)).exists():
            record, page = _page(name, Path(folder))
            headline = page.headline
            cells = f"`{name}`", f"{headline.number}: {headline.what}", headline.claim, _verdict(page, record)
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)


def write_report(name: str, folder: str | Path) -> Path:
    """Make pictures and page of one experiment from its record, and return the path of the page.

    Raises:
        ExperimentError: The record is missing, unfinished, or of another version.
        RecordError: The record is corrupt.
    """
    folder = Path(folder)
    text = render("book.html", chapters=[_chapter(name, folder)], left_out=[], book=False)
    for page in (folder / f"{name}.html", folder / REPORT):
        write(page, text)
    return folder / REPORT


def write_book(folder: str | Path) -> Path:
    """Make pictures and page of all experiments from the records in ``folder``, and return the path of the page.

    Raises:
        ExperimentError: There is no record, or one is of another version.
        FolderError: The folder is none of experiments.
        RecordError: A record is corrupt.
    """
    folder = Path(folder)
    if any(_file(name, folder).exists() for name in EXPERIMENTS):
        claim(folder, BOOK_OF)
    chapters, left_out = [], []
    for name in EXPERIMENTS:
        if not _file(name, folder).exists():
            reason = missing(name, options(name)) or f"It was not run: optizoo lab {name} --out {folder}"
        elif not is_finished(_file(name, folder)):
            reason = f"It was interrupted: optizoo lab {name} --out {folder} runs it again"
        else:
            chapters.append(_chapter(name, folder))
            continue
        left_out.append({"name": name, "title": _prose(docstring(name)).title, "reason": reason})
    if not chapters:
        raise ExperimentError(f"{folder} holds no finished experiment: run one with optizoo lab NAME --out {folder}")
    page = folder / BOOK
    write(page, render("book.html", chapters=chapters, left_out=left_out, book=True))
    return page


# Running --------------------------------------------------------------------------------------------------------------


def _run(name: str, chosen: Any, folder: Path | None, track: Track) -> list[Row]:
    _require(name, chosen)
    if folder is None:
        return _rows(_recorded(name, chosen, None, track))
    file = _file(name, folder)
    unfinished = file.with_name(f".{file.name}")
    earlier = Record.read(file) if is_finished(file) else None  # what is damaged shows before hours of work
    try:
        record = _recorded(name, chosen, unfinished, track)
        if earlier is not None and earlier.config != record.config:
            digest = hashlib.sha256(json.dumps(earlier.config, sort_keys=True).encode()).hexdigest()[:8]
            os.replace(file, file.with_name(f"{file.stem}-{digest}.jsonl"))
        os.replace(unfinished, file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return _rows(record)


def _recorded(name: str, chosen: Any, file: Path | None, track: Track) -> Record:
    recorder = Recorder(file)
    data = getattr(chosen, "data", None)
    about = {"name": data, "source": running.source(data) if data else None}
    recorder.start({"experiment": name, "options": _jsonable(asdict(chosen))}, environment(), about)
    start = time.perf_counter()
    for row in load(name).compute(chosen, track):
        recorder.add({"event": ROW, **_jsonable(row)})
    recorder.result(seconds=time.perf_counter() - start)
    return recorder.record


def _require(name: str, chosen: Any) -> None:
    if reason := missing(name, chosen):
        raise DataError(f"{name} needs CIFAR-10: {reason}")


def _jsonable(value: Any) -> Any:
    """Return what a file would give back, so that pages see the same with and without one."""
    return json.loads(json.dumps(value))


def _rows(record: Record) -> list[Row]:
    return [{key: value for key, value in event.items() if key != "event"} for event in record.others]


def _bar(items: Iterable[T], what: str, /) -> Iterable[T]:
    return tqdm(items, desc=what, mininterval=0.3, disable=None, leave=False, dynamic_ncols=True)


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name}.jsonl"


def _is_finished(name: str, chosen: Any, folder: Path) -> bool:
    file = _file(name, folder)
    return is_finished(file) and Record.read(file).config["options"] == _jsonable(asdict(chosen))


def _recognised(folder: Path) -> bool:
    """Return whether the records and pages of a folder are those of experiments, which may just have begun."""
    files = {name: _file(name, folder) for name in EXPERIMENTS if _file(name, folder).exists()}
    begun = {name: file for name, file in files.items() if not is_half_written(file)}
    try:
        pages = [(folder / page).read_text(encoding="utf-8") for page in (REPORT, BOOK) if (folder / page).exists()]
        ours = all(Record.read(file).config.get("experiment") == name for name, file in begun.items())
    except (RecordError, OSError, ValueError):
        return False
    return bool(files) and ours and all("· optizoo</title>" in page for page in pages)


BOOK_OF = Kind("book of experiments", _recognised)


# Pages ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prose:
    """A docstring in parts: the first line, the paragraphs, what is indented, and what the lecture says."""

    title: str
    idea: Sequence[str]
    equations: str


def _prose(docstring: str) -> _Prose:
    title, *paragraphs = re.split(r"\n\s*\n", docstring.strip())
    spoken = [paragraph for paragraph in paragraphs if paragraph.startswith("    ")]
    idea = [" ".join(each.split()) for each in paragraphs if each not in spoken and not each.startswith("The lecture:")]
    return _Prose(
        title.removesuffix("."),
        idea,
        "; ".join(" ".join(line.split()) for each in spoken for line in each.splitlines()),
    )


def _page(name: str, folder: Path) -> tuple[Record, Page]:
    """Return the record of an experiment and the page that it gives."""
    file = _file(name, folder)
    if not file.exists():
        raise ExperimentError(f"there is no {file}: run optizoo lab {name} --out {folder}")
    record = Record.read(file)
    if record.result is None:
        raise ExperimentError(f"{file} is not finished: run optizoo lab {name} --out {folder} again")
    try:
        return record, load(name).page(_rows(record))
    except KeyError as error:
        raise ExperimentError(
            f"{file} lacks {error}, as if of another version: run optizoo lab {name} --out {folder} again"
        ) from error


def _chapter(name: str, folder: Path) -> dict[str, Any]:
    """Return what the template shows of an experiment, and write its pictures."""
    record, page = _page(name, folder)
    assert record.result is not None
    prose = _prose(docstring(name))
    return {
        "name": name,
        "title": prose.title,
        "idea": prose.idea,
        "spoken": prose.equations,
        "equations": [equation(text) for text in page.equations],
        "seen": page.seen,
        "headline": page.headline,
        "verdict": _verdict(page, record),
        "pictures": [_drawn(name, picture, folder) for picture in page.pictures],
        "options": record.config["options"],
        "dataset": ", ".join(filter(None, record.dataset.values())),
        "environment": record.environment,
        "seconds": record.result["seconds"],
    }


def _verdict(page: Page, record: Record) -> str:
    return "not tested on synthetic images" if record.dataset["name"] == "synthetic" else page.headline.verdict


def _drawn(name: str, picture: Any, folder: Path) -> dict[str, Any]:
    light, dark = (picture.draw(theme) for theme in (pictures.LIGHT, pictures.DARK))
    png = pictures.png(light)
    stem = folder / f"{name}-{picture.name}"
    write(stem.with_suffix(".png"), png)
    write(stem.with_suffix(".svg"), pictures.svg(light))
    animation = pictures.gif(picture.frames(pictures.LIGHT)) if picture.frames else None
    if animation:
        write(stem.with_suffix(".gif"), animation)
    return {
        "title": picture.title,
        "caption": picture.caption,
        "alt": picture.alt,
        "light": inlined(png),
        "dark": inlined(pictures.png(dark)),
        "animation": inlined(animation, "gif") if animation else None,
        "columns": picture.table.columns,
        "rows": [[cell(value) for value in row] for row in picture.table.rows],
    }
