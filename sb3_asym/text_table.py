"""Tables for people who read a terminal."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """
    :param header: of the columns
    :param rows: cells, as many in each as in the header
    :param n_left: columns that are aligned at their left side, the first ones
    :return: lines, with rules below the header and below the last row
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:], rule])
