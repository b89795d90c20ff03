"""Decimal commas: `0,6931` in a log of a computer that is set to German or French, or in a table saved by its Excel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

NUMBER = re.compile(r"""(?<![^\s:=;"'|+-])(\d+),(\d+(?:[eE][-+]?\d+)?)(?![\w.,])""")
"""A number with a comma in it that stands by itself: not of a list, a pair in brackets, or a date."""
POINT = re.compile(r"\d\.\d")
NO_NUMBER = re.compile(
    r"\d+\.\d+\.\d+|\d\d\.\d\d\.(?!\d)|\d+:\d+:\d+(?:[.,]\d+)?|"
    r"(?i:version|torch|cuda|python|numpy)\S*\s*v?\d+\.\d+"
)
"""Dates, times and versions, which have points wherever numbers have commas."""
UNGROUPED = re.compile(r"(?<![\d.,:/-])\d{4,}(?![\d.,:/-])")


def commas(head: str) -> bool:
    """Whether numbers are written with a decimal comma: at least two can't be thousands, and none has a point.

    Thousands are no choice either where another number, such as a step, has four digits without a comma.

    >>> commas("Loss_D: 1,2126 Loss_G: 0,887"), commas("step 1,000 loss: 0.5"), commas("[1,2] loss: 1,200 and 3,400")
    (True, False, False)
    """
    head = NO_NUMBER.sub(" ", head)
    if POINT.search(head):
        return False
    found = [whole + "," + rest for whole, rest in NUMBER.findall(head)]
    if UNGROUPED.search(head):
        return len(found) >= 2
    return sum(re.fullmatch(r"[1-9]\d{0,2},\d{3}", text) is None for text in found) >= 2


def pointed(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    """Pieces of lines with points in the place of decimal commas.

    >>> next(pointed([["3;1,25;-0,5", "Loss: 1,2e-04"]]))
    ['3;1.25;-0.5', 'Loss: 1.2e-04']
    """
    for piece in lines:
        yield NUMBER.sub(r"\1.\2", "\n".join(piece)).split("\n") if piece else piece
