"""Tables for people who read a terminal."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """
    Lay out a table as text.

    :param header: names of the columns
    :param rows: cells of each row, one for each column
    :param n_left: number of leading columns that are aligned to the left; the others are aligned to the right
    :return: lines of the table, with rules below the header and below the last row
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if column < n_left else cell.rjust(width))
        lines.append("  ".join(cells))
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:], rule])
