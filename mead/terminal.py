"""Safe text for terminals and logs.

Prompts, file names, names inside weight files and responses of servers come from others. They may contain
characters that move the cursor, change the window's title or reverse the reading direction.
"""

from __future__ import annotations

import re
from typing import IO

# The control characters C0 (except tab and newline), DEL and C1; separators of lines and paragraphs, marks of
# the reading direction, invisible characters, surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` with the characters that a terminal would obey or hide escaped, as in `\\x1b`."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print like `print`, with control characters escaped."""
    print(printable(" ".join(map(str, values))), end=end, file=file, flush=flush)


def format_size(size: int) -> str:
    """A number of bytes in MB or GB, as in "1.20 GB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
