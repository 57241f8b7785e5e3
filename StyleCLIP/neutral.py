"""What a face is before an edit, in words: the prompt with what the face has instead of what it names.

A global direction leads from the neutral words to the prompt's, and the way from black to blue hair is not
that from blonde to blue. CLIP says which words fit the face, among those that exclude each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

JOINED = re.compile(r"(?P<by>,| and| with| who has)(?: an?)?(?: (?!and |with |has )\w+)? $")
"""What stands before words that are one of several, or the only one, that somebody has."""
NEXT = re.compile(r"(?:,| and) ")
ARTICLE = re.compile(r"\ban? (?=(\w))")
CLEARLY = 0.04  # how much more like the picture than nothing of a kind, as a cosine, one of the kind must be


class Alternatives:
    """Words that exclude each other.

    Args:
        words: separated by "|", the first ones empty if a face may have nothing of the kind, as in
            "| a crown | a hat". Before a colon, a noun that they are said of, as in "hair: black | blonde".
    """

    def __init__(self, words: str) -> None:
        noun, _, values = words.rpartition(":")
        self.values = [value.strip() for value in values.split("|")]
        longest_first = sorted(filter(None, self.values), key=len, reverse=True)
        of = rf"(?=(?: (?!and |with |on )\w+)? {re.escape(noun.strip())}\b)" if noun else ""
        self._said = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b{of}")

    def instead(self, text: str) -> Mapping[str, str]:
        """The text with each of the other words, by these, instead of those it has; {} if it has none."""
        said = self._said.search(text)
        if said is None:
            return {}
        others = (value for value in self.values if value != said[0])
        texts = {value: _exchanged(text, said.span(), value) for value in others}
        return {value: text for value, text in texts.items() if text not in ("", "a", "an")}


def neutral_words(
    prompt: str, picture: Tensor, kinds: Iterable[Alternatives], embed: Callable[[Sequence[str]], Tensor]
) -> str | None:
    """The prompt with all words that a kind has exchanged for those that fit a picture best.

    Args:
        prompt: what is asked for.
        picture: its embedding, [d], of unit length.
        kinds: of words, of each of which a prompt says at most one.
        embed: texts -> embeddings [N, d] of unit length.

    Returns:
        None if the prompt has no words of any kind.
    """
    text = prompt
    for kind in kinds:
        if others := kind.instead(text):
            fit = dict(zip(others, (embed([*others.values()]) @ picture).tolist(), strict=True))
            if "" in fit:
                fit[""] += CLEARLY
            text = others[max(fit, key=fit.__getitem__)]
    return None if text == prompt else text


def _exchanged(text: str, place: tuple[int, int], value: str) -> str:
    """The text with a value instead of what is at a place; "" takes away what belongs to that, too."""
    before, after = text[: place[0]], text[place[1] :]
    joined = None if value else JOINED.search(before)
    if joined:  # a list, that may go on
        first = joined["by"] in (" with", " who has")
        following = NEXT.match(after) if first else None
        before = before[: joined.start()]
        after = f"{joined['by']} {after[following.end() :]}" if following else after
    elif not value:
        after = after.lstrip()
    return ARTICLE.sub(lambda found: "an " if found[1] in "aeiou" else "a ", before + value + after).strip()
