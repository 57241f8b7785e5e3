"""CLIP's tokeniser: byte pair encoding, lower case (Sennrich et al., 2016, arXiv 1508.07909).

Our own, because the caching server must know what CLIP would cut off, without importing PyTorch as the
tokeniser of open_clip does. Both give the same ids (tests compare them). The vocabulary is open_clip's file.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import html
import importlib.util
import threading
from pathlib import Path

import regex

MERGES = 48_894  # among 49,408 ids; the rest: 256 bytes, twice (inside and ending a word), start and end
START, END = 512 + MERGES, 512 + MERGES + 1
"""Ids of the start and end tokens, around every text."""

_PIECE = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
_SOUND = regex.compile("[ -%'-~]*")  # ASCII without control characters and &: there is nothing to repair
# The vocabulary numbers the bytes that are visible characters first; those represent themselves.
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [*_VISIBLE, *(byte for byte in range(256) if byte not in _VISIBLE)]
_GONE = -1  # in place of a token merged into its left neighbour


class Tokeniser:
    """Encodes texts as token ids.

    Args:
        merges: the vocabulary's merges, each "left right", in order of priority.
    """

    def __init__(self, merges: list[str]) -> None:
        characters = [*map(chr, _VISIBLE), *(chr(256 + n) for n in range(256 - len(_VISIBLE)))]
        ids = {character: i for i, character in enumerate(characters)}
        ids |= {f"{character}</w>": 256 + i for i, character in enumerate(characters)}
        self._byte_ids = {byte: i for i, byte in enumerate(_BYTES)}
        self._merged: dict[int, int] = {}  # by left * 2**16 + right, half the memory of pairs
        for i, merge in enumerate(merges, start=512):
            left, right = merge.split()
            ids[left + right] = i
            self._merged[ids[left] << 16 | ids[right]] = i

    def mend(self, text: str) -> str:
        """The text as it was meant: encoding and HTML entities repaired, single blanks."""
        if not _SOUND.fullmatch(text):
            import ftfy  # a tenth of a second, which most texts can do without

            text = html.unescape(html.unescape(ftfy.fix_text(text)))
        return " ".join(text.split())

    def clean(self, text: str) -> str:
        """The text as CLIP reads it: mended, in lower case."""
        return self.mend(text).lower()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without the start and end tokens."""
        return [i for _, ids in self.pieces(text) for i in ids]

    def pieces(self, text: str) -> list[tuple[str, list[int]]]:
        """The cleaned text in pieces, each with its ids: runs of letters, digits, runs of other signs."""
        return [(piece, self._encode_piece(piece)) for piece in _PIECE.findall(self.clean(text))]

    def cut(self, text: str, length: int) -> tuple[str, str, int]:
        """Cut a text after `length` ids: (what is read, what is cut off, both cleaned; ids of the whole).

        A word that is read only in part counts as cut off.
        """
        cleaned = self.clean(text)
        ids = 0
        end = len(cleaned)
        for piece in _PIECE.finditer(cleaned):
            ids += len(self._encode_piece(piece.group()))
            if ids > length:
                end = min(end, piece.start())
        return cleaned[:end].rstrip(), cleaned[end:], ids

    def _encode_piece(self, piece: str) -> list[int]:
        """Merge neighbours in the order of the vocabulary, from the left where it is the same merge.

        A merge never creates a pair that comes before it in that order, so a heap keeps the order.
        """
        ids = [self._byte_ids[byte] for byte in piece.encode("utf-8")]
        ids[-1] += 256
        before = list(range(-1, len(ids) - 1))
        after = list(range(1, len(ids) + 1))
        waiting: list[tuple[int, int, int, int]] = []

        def consider(i: int) -> None:
            if i < 0 or after[i] >= len(ids):
                return
            left, right = ids[i], ids[after[i]]
            merged = self._merged.get(left << 16 | right)
            if merged is not None:
                heapq.heappush(waiting, (merged, i, left, right))

        for i in range(len(ids) - 1):
            consider(i)
        while waiting:
            merged, i, left, right = heapq.heappop(waiting)
            j = after[i]
            if ids[i] != left or j >= len(ids) or ids[j] != right:
                continue  # one of the two has been merged already
            ids[i], ids[j] = merged, _GONE
            after[i] = after[j]
            if after[i] < len(ids):
                before[after[i]] = i
            consider(before[i])
            consider(i)
        return [token for token in ids if token != _GONE]


def surely_fits(text: str, length: int) -> bool:
    """Whether a text has at most `length` ids for sure, told from its length alone: an id is a byte or more.

    Cleaning makes no ASCII text longer, but for entities: `&nGt;` is six bytes.
    """
    return len(text) <= length and text.isascii() and "&" not in text


_loading = threading.Lock()


def load_tokeniser() -> Tokeniser:
    """The tokeniser with CLIP's vocabulary, which the first call reads (about 50 ms and 10 MB)."""
    with _loading:  # many first requests at once must read it only once
        return _load()


@functools.cache
def _load() -> Tokeniser:
    package = importlib.util.find_spec("open_clip")  # finds it, imports nothing
    assert package is not None and package.origin is not None
    with gzip.open(
        Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8"
    ) as file:
        lines = file.read().split("\n")
    return Tokeniser(lines[1 : 1 + MERGES])
