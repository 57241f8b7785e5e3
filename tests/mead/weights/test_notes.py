"""Notes: what the weights have not learned is named as it was written; what has no effect is named with the
reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from LatentRevisions.params import LatentRevisionsParams
from mead.params import JobParams
from mead.registry import MODELS
from mead.weights.notes import notes_on, unknown_words
from mead.weights.sets import WeightSet, set_names
from mead.weights.texts import known_tokens
from StyleCLIP.params import StyleCLIPParams
from training.world.captions import COLOUR_WORDS


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a boat on the sea at sunset", []),
        ("A Red HOUSE, the moon; a tree!", []),
        ("a frowning man with spiky hair", []),  # words of several tokens
        ("a cat astronaut", ["cat", "astronaut"]),
        ("an oil painting of a castle", ["oil", "painting", "castle"]),
        ("ein rotes Haus am Meer", ["ein", "rotes", "Haus", "am", "Meer"]),
        ("A CAT, a Cat and a cat", ["CAT"]),  # each once
        ("that hat", ["that"]),  # whose letters end with those of a known word
        ("redhouse, scar, king-fish", ["redhouse", "scar"]),
        ("a red-haired girl's hat", ["red-haired"]),
        ("don't, o'clock", ["don't", "o'clock"]),
        ("3 trees and 10 boats", ["3", "trees", "10", "boats"]),
        ("🚀 over the sea, 👩🏽\u200d🚀🇩🇪", ["🚀", "👩🏽\u200d🚀", "🇩🇪"]),
        ("caf&eacute; cafe\u0301", ["café"]),
        ("猫がいる", ["猫がいる"]),
        ("... !? -- <> ©", ["©"]),
    ],
)
def test_the_words_that_the_demo_weights_have_not_learned(text: str, unknown: list[str]) -> None:
    assert unknown_words([text], "demo") == unknown


def test_every_colour_of_the_drawings_is_known() -> None:
    assert unknown_words(COLOUR_WORDS, "demo") == []


def test_a_long_list_is_cut() -> None:
    words = [f"w{chr(97 + n)}rd" for n in range(25)]
    (note,) = notes_on(LatentRevisionsParams(prompt=" ".join(words)), "demo")
    assert note == f"the demo weights have not learned: {', '.join(words[:10])} and 15 more"
    (note,) = notes_on(LatentRevisionsParams(prompt="x" * 1000), "demo")
    assert note.endswith(f": {'x' * 40}...")


def test_a_whole_vocabulary_gives_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "manifest.toml").write_text('base = "demo"\n[files.clip]\n')
    save_file({"positional_embedding": np.zeros((77, 8))}, tmp_path / "whole" / "clip.safetensors")
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    assert known_tokens("whole") is None
    assert notes_on(LatentRevisionsParams(prompt="a cat astronaut"), "whole") == ()
    assert known_tokens("full") is None  # also if its files are not here
    assert notes_on(LatentRevisionsParams(prompt="a cat astronaut"), "full") == ()


# What has no effect


def lr(**given: Any) -> JobParams:
    return LatentRevisionsParams(prompt="a red house", **given)


@pytest.mark.parametrize(
    ("params", "notes"),
    [
        (lr(), []),
        (lr(w0=5, w1=0, w2=0, w3=0, seed=1), []),  # the defaults, as the first version's clients send them
        (lr(text_to_add="a star", w1=2), []),
        (lr(text_to_add="a star"), ["text_to_add has no effect: its weight w1 is 0"]),
        (lr(text_to_add="a star", w0=0, w1=-1), ["prompt has no effect: its weight w0 is 0"]),
        (lr(w1=2), ["w1 has no effect: there is no text_to_add"]),
        (lr(w2=-0.5), ["w2 has no effect: there is no img_enc"]),
        (lr(ne_img_enc_path="a.png"), ["ne_img_enc has no effect: its weight w3 is 0"]),
        (lr(img_path="a.png"), []),
        (lr(start="noise"), []),
        (
            lr(img_path="a.png", start="noise"),
            ["start has no effect: the optimisation starts from img"],
        ),
        (StyleCLIPParams(prompt="a queen", start="learned", seed=3, iterations=4), []),
        (StyleCLIPParams(sliders="age:0 | smile:1"), ['"age" in sliders has no effect: its value is 0']),
        (
            StyleCLIPParams(prompt="a queen", method="global", alpha=0),
            ["the edit has no effect: its alpha is 0"],
        ),
    ],
)
def test_what_has_no_effect(params: JobParams, notes: list[str]) -> None:
    assert list(notes_on(params, "demo")) == notes
    recorded = params.model_dump(mode="json", exclude_none=True)  # a record has the defaults as well
    assert list(notes_on(type(params).model_validate(recorded), "demo")) == notes


@pytest.mark.parametrize(
    "given", [{"mapper": "beard"}, {"sliders": "age:1"}, {"prompt": "x", "method": "global"}]
)
def test_pictures_that_are_the_same(given: dict[str, Any]) -> None:
    """Of an edit that is found in one pass, or optimised without any cutouts."""
    same = "the 3 pictures are the same: nothing about this edit depends on the seed"
    assert notes_on(StyleCLIPParams(**given, n=3), "full")[-1:] == (same,)
    assert same not in notes_on(StyleCLIPParams(**given), "full")
    assert notes_on(StyleCLIPParams(prompt="a queen", n=3), "full") == (same,)
    (note,) = notes_on(StyleCLIPParams(prompt="a queen", n=3), "demo")
    assert note.startswith("the 3 pictures hardly differ")
    assert notes_on(StyleCLIPParams(prompt="a queen", n=3, start="inversion"), "demo") == ()


def test_only_texts_that_count_are_read() -> None:
    params = lr(text_to_add="a cat", w1=0)
    assert notes_on(params, "demo") == ("text_to_add has no effect: its weight w1 is 0",)
    params = LatentRevisionsParams(prompt="a dog", text_to_add="a cat", w1=2)
    assert notes_on(params, "demo") == ("the demo weights have not learned: dog, cat",)


# What sets say of themselves


@pytest.mark.parametrize("name", set_names())
def test_shipped_sets_say_what_they_draw(name: str) -> None:
    weights = WeightSet.find(name)
    assert weights.draws.endswith(".") and weights.examples.keys() == {spec.name for spec in MODELS.values()}
    for spec in MODELS.values():
        for prompt in weights.examples[spec.name]:
            assert notes_on(spec.params(prompt=prompt), name) == ()


def test_a_set_with_networks_of_its_own_does_not_say_what_its_base_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    for name, files in (("slower", ""), ("other", "[files.vqgan]\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.toml").write_text(f'base = "demo"\n{files}')
    assert WeightSet.find("slower").draws == WeightSet.find("demo").draws
    assert WeightSet.find("slower").examples == WeightSet.find("demo").examples
    assert (WeightSet.find("other").draws, WeightSet.find("other").examples) == ("", {})


def test_nothing_heavy_is_loaded() -> None:
    """The caching server makes notes too."""
    code = """
import sys
from StyleCLIP.params import StyleCLIPParams
from mead.weights.notes import notes_on
assert notes_on(StyleCLIPParams(prompt="a cat"), "demo")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
