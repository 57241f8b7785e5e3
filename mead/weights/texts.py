"""What the CLIP of a weights set reads: how long a text, and which tokens. Without PyTorch."""

from __future__ import annotations

import functools
from pathlib import Path

from safetensors import safe_open

from mead.nn.tokeniser import load_tokeniser, surely_fits
from mead.params import JobParams, ParamsError
from mead.weights.sets import WeightSet

CONTEXT_LENGTH = 77  # tokens every published CLIP reads, the start and end token included
SHOWN = 60  # characters of a text that an error message quotes


def check_texts(params: JobParams, weights: str) -> None:
    """Check that the CLIP of a weights set reads a job's texts to the end. Loads no weights and no PyTorch.

    Raises:
        ParamsError: naming the text and the words that would be cut off.
        UnknownSetError: if there is no such set.
    """
    room = most_tokens(weights)
    for field, text in params.texts():
        if surely_fits(text, room):
            continue
        read, unread, ids = load_tokeniser().cut(text, room)
        if not unread:
            continue
        where = f'after "{_end_of(read)}"' if read else "within its first word"
        raise ParamsError(
            field,
            f"CLIP reads {room} tokens of a text and this has {ids}: it would stop {where} and not read "
            f'"{_start_of(unread)}"; make it shorter',
            out_of_range=True,
        )


def most_tokens(weights: str) -> int:
    """How many tokens of a text the CLIP of a set reads, without the start and end tokens.

    Raises:
        UnknownSetError: if there is no such set.
    """
    return context_length(weights) - 2


def token_counts(params: JobParams) -> dict[str, int]:
    """How many tokens a job's texts have, by field: of a field with several texts, the longest has."""
    counts: dict[str, int] = {}
    for field, text in params.texts():
        counts[field] = max(counts.get(field, 0), len(load_tokeniser().encode(text)))
    return counts


@functools.cache
def context_length(weights: str) -> int:
    """How many tokens the CLIP of a set reads, from its file's header; CONTEXT_LENGTH if the file is missing.

    Raises:
        UnknownSetError: if there is no such set.
    """
    path = _clip_of(weights)
    if path is None:
        return CONTEXT_LENGTH
    with safe_open(path, framework="np") as tensors:
        length: int = tensors.get_slice("positional_embedding").get_shape()[0]
    return length


@functools.cache
def known_tokens(weights: str) -> frozenset[int] | None:
    """The ids of the tokens that the CLIP of a set has learned; None if that is the whole vocabulary.

    A compact state dict lists them (see `mead.nn.perceptor.expand`). None, too, if the file is missing.

    Raises:
        UnknownSetError: if there is no such set.
    """
    path = _clip_of(weights)
    if path is None:
        return None
    with safe_open(path, framework="np") as tensors:
        names: list[str] = list(tensors.keys())
        return frozenset(tensors.get_tensor("tokens").tolist()) if "tokens" in names else None


def _clip_of(weights: str) -> Path | None:
    """The file of a set's CLIP, if it is there."""
    file = WeightSet.find(weights).files.get("clip")
    return file.path if file is not None and file.path.is_file() else None


def _start_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0] or text[:SHOWN]} ..."


def _end_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:].partition(' ')[2] or text[-SHOWN:]}"
