"""Notes on a job: what was taken but cannot have its effect. Loads no weights and no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

import regex

from mead.nn.tokeniser import Tokeniser, load_tokeniser
from mead.params import JobParams
from mead.weights.sets import WeightSet
from mead.weights.texts import known_tokens

MOST_WORDS = 10
"""Unknown words that a note lists."""
LONGEST_WORD = 40
"""Characters of a word that a note shows."""

# Letters and digits, also where they are joined as in "red-haired" and "girl's"; or one emoji.
_WORD = regex.compile(
    r"[\p{L}\p{M}\p{N}]+(?:[-‐'’][\p{L}\p{M}\p{N}]+)*|(?=\p{Extended_Pictographic}|\p{Regional_Indicator})\X"
)
_JOINTS = "-‐'’"


def notes_on(params: JobParams, weights: str) -> tuple[str, ...]:
    """What a job's client should know, each in a sentence: words that the weights have not learned,
    parameters without an effect, and what else the model says.

    Raises:
        UnknownSetError: if there is no such weights set.
    """
    idle = params.without_effect()
    notes = [f"{field} has no effect: {why}" for field, why in idle.items()]
    words = unknown_words((text for field, text in params.texts() if field not in idle), weights)
    if words:
        notes.insert(0, f"the {weights} weights have not learned: {_listed(words)}")
    return (*notes, *params.notes(WeightSet.find(weights)))


def unknown_words(texts: Iterable[str], weights: str) -> list[str]:
    """The words of texts that the CLIP of a weights set has not learned, as they were written, each once.

    A word is unknown if CLIP has not learned one of its tokens. Tokens that end a word are not those within
    one, so "hat" says nothing of "that". Punctuation and endings such as "'s" are no words.
    """
    known = known_tokens(weights)
    if known is None:
        return []
    tokeniser = load_tokeniser()
    words: dict[str, str] = {}
    for text in texts:
        for word in _WORD.findall(tokeniser.mend(text)):
            if word.lower() not in words and not _is_known(word, known, tokeniser):
                words[word.lower()] = word
    return list(words.values())


def _is_known(word: str, known: frozenset[int], tokeniser: Tokeniser) -> bool:
    return all(known.issuperset(ids) for piece, ids in tokeniser.pieces(word) if piece[0] not in _JOINTS)


def _listed(words: list[str]) -> str:
    shown = [word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}..." for word in words]
    more = len(words) - MOST_WORDS
    return ", ".join(shown[:MOST_WORDS]) + (f" and {more} more" if more > 0 else "")
