"""Tables in Markdown."""

from collections.abc import Collection, Sequence


def tabulated(
    columns: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str] = ("rule",)
) -> str:
    """Returns a table, the columns named in ``words`` to the left and the others to the right.

    >>> print(tabulated(("rule", "b"), [("lump", "2")]))
    | rule | b |
    | :--- | ---: |
    | lump | 2 |
    """
    marks = [":---" if column in words else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, marks, *rows))
