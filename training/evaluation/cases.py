"""What is asked of the networks: prompts, things to weigh against each other, edits; the same every time."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from training.evaluation.bench import Named, there
from training.reader import NONE, fresh
from training.world import Drawing, Face, Landscape
from training.world.attributes import FIELDS, labels
from training.world.captions import caption
from training.world.colours import COLOURS, held_out
from training.world.faces import EYE_COLOURS, HAIR_COLOURS


@dataclass(frozen=True)
class Case:
    """A prompt, what it names, and a drawing that it is true of."""

    drawing: Drawing
    prompt: str
    named: Named

    @property
    def unseen(self) -> bool:
        """Whether it names a combination that is kept out of all training."""
        if isinstance(self.drawing, Face):
            return self.drawing.held_out and {"hair_colour", "eye_colour"} <= set(self.named)
        word, things = (
            ("thing", self.drawing.things)
            if isinstance(self.drawing, Landscape)
            else ("shape", self.drawing.shapes)
        )
        said = [thing for thing in things if set(self.named.get(thing.kind, ())) == {thing.colour}]
        return any(held_out(word, thing.kind, thing.colour) for thing in said)


def captions(drawing: Drawing, rng: np.random.Generator, fewest: int, most: int) -> Iterator[Case]:
    """Some captions of `drawing` that name `fewest` to `most` attributes."""
    for _ in range(300):
        said = caption(drawing, rng)
        named = said.telling
        if fewest <= len(named) <= most:
            yield Case(drawing, said.text, named)


def prompts(number: int) -> Iterator[Case]:
    """Prompts naming one, two, three, four, one, ... attributes; half of them in unseen combinations."""
    for k in range(number):
        rng = np.random.default_rng([31, k])
        length, unseen = 1 + k % 4, k // 4 % 2 == 1
        found = None
        while found is None:
            drawing = fresh(rng)
            # a face's combination is two attributes: one alone is none
            test = unseen and not (isinstance(drawing, Face) and length == 1)
            drawing = type(drawing).sample(rng, test=test)
            found = next((c for c in captions(drawing, rng, length, length) if c.unseen == test), None)
        yield found


@dataclass(frozen=True)
class Weighing:
    """Things to weigh against each other: words of one drawing, and another drawing of its kind."""

    first: Case  # one or two attributes
    second: Case  # one or two others of the same drawing
    both: Case  # two or three
    part: Case  # some of these
    other: Drawing


def weighings(number: int) -> Iterator[Weighing]:
    for k in range(number):
        rng = np.random.default_rng([33, k])
        while True:
            drawing = fresh(rng)
            first = next(captions(drawing, rng, 1, 2), None)
            both = next(captions(drawing, rng, 2, 3), None)
            if first and both:
                few = list(captions(drawing, rng, 1, 2))
                second = next((c for c in few if not set(c.named) & set(first.named)), None)
                part = next((c for c in few if set(c.named) < set(both.named)), None)
                if second and part:
                    break
        yield Weighing(first, second, both, part, other=type(drawing).sample(rng))


@dataclass(frozen=True)
class Edit:
    """A face, the words that change one attribute of it, and the face it should become."""

    face: Face
    prompt: str
    field: str
    after: Face

    @property
    def kept(self) -> list[str]:
        """The attributes that the change leaves as they are (a bald head has no hair colour)."""
        before, after = labels(self.face), labels(self.after)
        return [field for field in face_fields() if field != self.field and before[field] == after[field]]


@functools.cache
def face_fields() -> tuple[str, ...]:
    """The attributes that faces have."""
    rng = np.random.default_rng(0)
    seen = {field for _ in range(300) for field in there(Face.sample(rng))}
    return tuple(field for field in FIELDS if field in seen)


def changes(face: Face) -> dict[str, list[tuple[str, Face]]]:
    """For each attribute that can be changed, the ways to: words, "{}" for the person, and the face then.

    Sex, age and skin are who the person is, which an edit is to keep.
    """
    ways: dict[str, list[tuple[str, Face]]] = defaultdict(list)
    for colour in HAIR_COLOURS:
        if colour != face.hair_colour and face.hair_style != "bald":
            ways["hair_colour"].append((f"{{}} with {colour} hair", replace(face, hair_colour=colour)))
    for style in FIELDS["hair_style"]:
        if style not in (NONE, face.hair_style):
            words = "bald {}" if style == "bald" else f"{{}} with {style} hair"
            ways["hair_style"].append((words, replace(face, hair_style=style)))
    for colour in EYE_COLOURS:
        if colour != face.eye_colour:
            ways["eye_colour"].append((f"{{}} with {colour} eyes", replace(face, eye_colour=colour)))
    words = "{} with no glasses" if face.glasses else "{} with glasses"
    ways["glasses"].append((words, replace(face, glasses=not face.glasses)))
    if face.gender == "male" and face.age != "child" and not face.beard:
        ways["beard"].append(("{} with a beard", replace(face, beard=True)))
    if face.gender == "female" and not face.earrings:
        ways["earrings"].append(("{} with earrings", replace(face, earrings=True)))
    for word, expression in (("smiling", "smile"), ("frowning", "frown")):
        if face.expression != expression:
            ways["expression"].append((f"{word} {{}}", replace(face, expression=expression)))
    if face.headwear != "crown":
        ways["crown"].append(("{} with a crown", replace(face, headwear="crown")))
    for colour in COLOURS:
        a = "an" if colour[0] in "aeiou" else "a"
        if face.headwear != "hat":
            hat = replace(face, headwear="hat", headwear_colour=colour)
            ways["hat"].append((f"{{}} with {a} {colour} hat", hat))
        if face.background != colour:
            ways["background"].append((f"{{}} on {a} {colour} background", replace(face, background=colour)))
        if face.clothes != colour:
            ways["clothes"].append((f"{{}} with {colour} clothes", replace(face, clothes=colour)))
    return ways


def edits(number: int) -> Iterator[Edit]:
    """Unseen faces, half of them of combinations never trained on, each with one attribute to change."""
    for k in range(number):
        rng = np.random.default_rng([34, k])
        face = Face.sample(rng, test=k % 2 == 1)
        possible = changes(face)
        field = str(rng.choice(list(possible)))
        words, after = possible[field][int(rng.integers(len(possible[field])))]
        nouns = {"child": ("girl", "boy"), "adult": ("woman", "man"), "old": ("old woman", "old man")}
        text = words.format(nouns[face.age][face.gender == "male"])
        yield Edit(face, f"{'an' if text[0] in 'aeiou' else 'a'} {text}", field, after)
