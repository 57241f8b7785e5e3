"""Captions: a random part of what a drawing shows, said in one of many ways; and captions that are wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.world.attributes import FIELDS, labels
from training.world.colours import COLOURS
from training.world.faces import EYE_COLOURS, HAIR_COLOURS, Face
from training.world.landscapes import Landscape, Thing
from training.world.shapes import Shapes

PREFIXES = ("", "", "", "a picture of ", "an image of ", "a drawing of ")
FACE_PREFIXES = ("", "", "", "a picture of ", "a portrait of ", "an image with the face of ", "the face of ")
COLOUR_WORDS = tuple(dict.fromkeys([*COLOURS, *HAIR_COLOURS, *EYE_COLOURS]))


@dataclass(frozen=True)
class Caption:
    """Words, and what they name: for each attribute they speak of, the values that make them true."""

    text: str
    named: Mapping[str, frozenset[str]]

    @property
    def telling(self) -> dict[str, frozenset[str]]:
        """What is named but for "a person" and "a landscape", which nearly any picture satisfies."""
        vague = ("gender", "ground")
        return {k: v for k, v in self.named.items() if not (k in vague and len(v) == len(FIELDS[k]) - 1)}


def caption(drawing: Face | Landscape | Shapes, rng: np.random.Generator) -> Caption:
    """Say a random part of what `drawing` shows; everything said is true of it."""
    prefix = _pick(rng, FACE_PREFIXES if isinstance(drawing, Face) else PREFIXES)
    if isinstance(drawing, Face):
        text, said = _face(drawing, rng)
    elif isinstance(drawing, Landscape):
        text, said = _landscape(drawing, rng)
    else:
        text, said = _shapes(drawing, rng)
    shown = labels(drawing)
    named = {}
    for attribute in said:
        # "hat?" is a hat of a colour that is not said, "gender?" a person of either gender
        any_value = attribute.endswith("?")
        name = attribute.rstrip("?")
        named[name] = frozenset(FIELDS[name][1:] if any_value else (shown[name],))
    return Caption(prefix + text, named)


def wrong(text: str, rng: np.random.Generator) -> str:
    """The same caption with two of its colours swapped, or one replaced: the hard negative of `text`.

    A caption without a colour gets one in front, which a picture rarely has by chance. Glasses become no
    glasses as often, and the other way round.
    """
    if "glasses" in text and rng.random() < 0.5:
        return re.sub(r"\b(no )?glasses", lambda match: "glasses" if match.group(1) else "no glasses", text)
    found = [match for match in re.finditer(r"\b\w+\b", text) if match.group() in COLOUR_WORDS]
    distinct = sorted({match.group() for match in found})
    if not found:
        return f"{_pick(rng, tuple(COLOURS))} {text}"
    if len(distinct) >= 2 and rng.random() < 0.6 and not _same_kind_twice(text):
        a, b = (str(word) for word in rng.choice(distinct, 2, replace=False))
        exchange = {a: b, b: a}
    else:
        a = _pick(rng, tuple(distinct))
        exchange = {a: _pick(rng, tuple(word for word in COLOURS if word not in distinct))}
    text = re.sub(r"\b\w+\b", lambda match: exchange.get(match.group(), match.group()), text)
    return re.sub(r"\b(an?) (\w+)", lambda match: _a(match.group(2)), text)


def _same_kind_twice(text: str) -> bool:
    """Whether swapping colours could leave the caption true: "a red star and a blue star"."""
    words = re.findall(r"\w+", text)
    return any(words.count(kind) > 1 for kind in ("circle", "square", "triangle", "star", "heart"))


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _face(face: Face, rng: np.random.Generator) -> tuple[str, list[str]]:
    said = rng.random(12) < rng.choice([0.15, 0.3, 0.5])
    female = face.gender == "female"
    noun = {"child": ("girl", "boy"), "adult": ("woman", "man"), "old": ("old woman", "old man")}[face.age][
        not female
    ]
    names = ["gender", "age"]
    if face.headwear == "crown" and rng.random() < 0.6:
        noun = "queen" if female else "king"
        names = ["gender", "crown"]
    elif rng.random() < 0.22:
        noun = _pick(rng, ("person", "beautiful person", "face"))
        names = ["gender?"]
    elif rng.random() < 0.08:
        noun = f"beautiful {noun}"

    adjectives = []
    features: list[tuple[str, list[str]]] = []  # words, and the attributes they name
    if said[0] and face.expression == "smile":
        adjectives.append(_pick(rng, ("smiling", "happy")))
        names.append("expression")
    elif said[0] and face.expression == "frown":
        adjectives.append(_pick(rng, ("frowning", "sad", "angry")))
        names.append("expression")
    if face.hair_style == "bald":
        if said[1] or said[2]:
            adjectives.append("bald")
            names.append("hair_style")
    elif said[1] or said[2]:
        colour = face.hair_colour if said[1] else ""
        style = face.hair_style if said[2] else ""
        if colour == "blonde" and rng.random() < 0.3:
            adjectives.append("blonde")
            names.append("hair_colour")
        if not (adjectives and adjectives[-1] == "blonde") or rng.random() < 0.5:
            words = " ".join(filter(None, (style, colour, "hair")))
            features.append((words, [*["hair_style"] * bool(style), *["hair_colour"] * bool(colour)]))
    if said[3] or rng.random() < 0.25:
        features.append((f"{face.eye_colour} eyes", ["eye_colour"]))
    if face.beard and (said[4] or rng.random() < 0.4):
        if face.hair_style != "bald" and rng.random() < 0.4:
            features.append((_a(f"{face.hair_colour} beard"), ["beard", "hair_colour"]))
        else:
            features.append(("a beard", ["beard"]))
    if face.glasses and (said[5] or rng.random() < 0.4):
        features.append(("glasses", ["glasses"]))
    if face.headwear == "hat" and (said[6] or rng.random() < 0.4):
        coloured = rng.random() < 0.7
        features.append((_a(f"{face.headwear_colour} hat"), ["hat"]) if coloured else ("a hat", ["hat?"]))
    if face.headwear == "crown" and noun not in ("queen", "king") and (said[6] or rng.random() < 0.4):
        features.append((_pick(rng, ("a crown", "a golden crown")), ["crown"]))
    if face.earrings and said[7]:
        features.append(("earrings", ["earrings"]))
    if said[8] and rng.random() < 0.6:
        features.append((f"{face.skin} skin", ["skin"]))
    if said[9] and rng.random() < 0.4:
        features.append((f"{face.clothes} clothes", ["clothes"]))
    if not face.glasses and rng.random() < 0.03:
        features.append(("no glasses", ["glasses"]))
    features = [features[k] for k in rng.permutation(len(features))][:4]

    text = _a(" ".join([*adjectives, noun]))
    if features:
        text += _pick(rng, (" with ", " with ", " with ", " who has ")) + _join([f for f, _ in features])
        names += [name for _, of_feature in features for name in of_feature]
    if said[10]:
        text += f" on {_a(face.background)} background"
        names.append("background")
    if rng.random() < 0.12:
        text += _pick(rng, (" looking at us", " looking at you"))
    return text, names


def _thing(thing: Thing, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.15:
        return _a(thing.kind), f"{thing.kind}?"
    return _a(f"{thing.colour} {thing.kind}"), thing.kind


def _landscape(scene: Landscape, rng: np.random.Generator) -> tuple[str, list[str]]:
    things = [_thing(thing, rng) for thing in scene.things]
    if len(things) == 2:
        things = [things[k] for k in rng.permutation(2)][: 1 + int(rng.random() < 0.7)]
    if scene.mountains and (not things or rng.random() < 0.4):
        things.insert(int(rng.integers(len(things) + 1)), ("mountains", "mountains"))
    if scene.cloud and rng.random() < 0.2:
        things.append(("a cloud", "cloud"))
    if scene.sun and rng.random() < 0.25:
        things.append(("the sun", "sun"))
    if scene.moon and rng.random() < 0.3:
        things.append(("the moon", "moon"))
    words = [words for words, _ in things]
    names = [name for _, name in things] or ["ground?"]
    text = _join(words) if things else _pick(rng, ("a landscape", "a view", "a scene"))
    if rng.random() < 0.6:
        floating = bool(scene.things) and all(thing.kind == "balloon" for thing in scene.things)
        over = {"grass": "over grass", "sand": "over sand", "snow": "over snow", "sea": "over the sea"}
        on = {
            "grass": ("on green grass", "on grass", "in a meadow"),
            "sand": ("on sand", "on a beach", "on the beach", "on yellow sand"),
            "snow": ("in the snow", "on snow", "on white snow"),
            "sea": ("on the sea", "in the sea", "on blue water"),
        }
        text += " " + (over[scene.ground] if floating and things else _pick(rng, on[scene.ground]))
        names.append("ground")
    if rng.random() < 0.6:
        when = {
            "day": (
                "by day",
                "under a blue sky",
                "during the day",
                "on a sunny day" if scene.sun else "by day",
            ),
            "night": ("at night", "at night", "under a starry sky", "in the dark"),
            "sunset": ("at sunset", "at sunset", "under an orange sky", "in the evening"),
        }
        text += " " + _pick(rng, when[scene.sky])
        names.append("sky")
    return text, names


def _shapes(drawing: Shapes, rng: np.random.Generator) -> tuple[str, list[str]]:
    shapes = [drawing.shapes[k] for k in rng.permutation(len(drawing.shapes))]
    text = _join([_a(f"{shape.colour} {shape.kind}") for shape in shapes])
    names = [shape.kind for shape in shapes]
    if rng.random() < 0.5:
        text += _pick(rng, (f" on {_a(drawing.background)} background", f" on {drawing.background}"))
        names.append("background")
    return text, names
