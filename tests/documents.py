"""What a page of Markdown says that can be run or followed: its code, its commands, its links."""

import re
from pathlib import Path
from typing import Any

from optizoo.cli.parser import command_line
from optizoo.lab import shipped


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page, one after the other, as a reader would paste them, and return their names."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, page.name, "exec"), namespace)
    return namespace


def links(text: str) -> list[str]:
    """Return where the links of a page lead that stay on this disk, without their anchors."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose) if "://" not in link]


def check_command(words: list[str]) -> None:
    """Raise unless the command line of optizoo knows this command, its flags, and the name of its config."""
    options, rest = command_line().parse_known_args(words)
    assert not rest or hasattr(options, "config"), f"optizoo {' '.join(words)}: unknown {rest}"
    config = str(getattr(options, "config", "a.toml"))
    assert config.endswith(".toml") or config in shipped.names(), f"no config {config!r} is shipped"
