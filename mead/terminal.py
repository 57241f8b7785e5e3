"""Text on a terminal: nothing in it is taken for a command to the terminal.

Prompts, file names, names inside weight files and what a server answers come from others, and may hold
characters that move the cursor, change the title or turn the reading direction.
"""

from __future__ import annotations

import re
from typing import IO

# Beside the control characters C0 (but for tab and newline), DEL and C1: what separates lines or paragraphs,
# marks and turns the reading direction, is invisible, is half a character.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` with each character that a terminal would obey or hide written as its escape, as in `\\x1b`."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print, as `print` does, what a terminal may show."""
    print(printable(" ".join(map(str, values))), end=end, file=file, flush=flush)
