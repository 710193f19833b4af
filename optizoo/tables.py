"""Tables in plain text."""

from collections.abc import Collection, Sequence


def text_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Return rows, of which the first is the header, with their columns aligned.

    Args:
        rows: Cells of equal number in every row.
        right: Columns, counted from 0, that are aligned to the right.

    >>> print(text_table([["name", "n"], ["a", "10"], ["b", "9"]], right=[1]))
    name   n
    ----  --
    a     10
    b      9
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in enumerate(sized)]
        for sized in (zip(row, widths, strict=True) for row in rows)
    ]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)
