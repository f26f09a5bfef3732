"""Plain text tables for a terminal, a log or a README."""

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: text to the left, numbers (and "-" for none) to the right.

    Args:
        header: column names.
        rows: one sequence of cells a row, as many as `header` has.

    Returns:
        Lines without a trailing newline, a rule under the header.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells: {header}")
    aligned = []
    for name, *cells in zip(header, *rows, strict=True):
        width = max(len(cell) for cell in (name, *cells))
        to_the_right = bool(cells) and all(_is_number(cell) for cell in cells)
        column = [cell.rjust(width) if to_the_right else cell.ljust(width) for cell in cells]
        title = name.rjust(width) if to_the_right else name.ljust(width)
        aligned.append([title, "-" * width, *column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
