"""What the CLIPs of a weights set read: how long a text, and which tokens. Without PyTorch."""

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
    """Check that each CLIP of a weights set reads a job's texts to the end. Loads no weights and no PyTorch.

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
    """How many tokens every CLIP of a set reads, from their files' headers; CONTEXT_LENGTH without files.

    Raises:
        UnknownSetError: if there is no such set.
    """
    lengths = []
    for path in _clips_of(weights):
        with safe_open(path, framework="np") as tensors:
            lengths.append(tensors.get_slice("positional_embedding").get_shape()[0])
    return min(lengths, default=CONTEXT_LENGTH)


@functools.cache
def known_tokens(weights: str) -> frozenset[int] | None:
    """The ids of the tokens that every CLIP of a set has learned; None if that is the whole vocabulary.

    A compact state dict lists them (see `mead.nn.perceptor.expand`). None, too, without files.

    Raises:
        UnknownSetError: if there is no such set.
    """
    known: frozenset[int] | None = None
    for path in _clips_of(weights):
        with safe_open(path, framework="np") as tensors:
            if "tokens" in list(tensors.keys()):
                tokens = frozenset(tensors.get_tensor("tokens").tolist())
                known = tokens if known is None else known & tokens
    return known


def _clips_of(weights: str) -> list[Path]:
    """The files of a set's CLIPs that are there."""
    chosen = WeightSet.find(weights)
    files = (chosen.files.get(name) for name in chosen.perceptors)
    return [file.path for file in files if file is not None and file.path.is_file()]


def _start_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0] or text[:SHOWN]} ..."


def _end_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:].partition(' ')[2] or text[-SHOWN:]}"
