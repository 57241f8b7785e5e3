"""The evaluation: it asks for what is true, judges by it, and a short run of it makes tables and sheets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import evaluate
from training.evaluation import cases, masks
from training.evaluation import faces as found_faces
from training.evaluation.inversions import photographs, tally
from training.evaluation.sheets import SIDE, Tile, pages, sheet, wrapped
from training.world import Face, draw
from training.world.attributes import FIELDS, labels

TINY = [
    *("--prompts", "2", "--cases", "1", "--edits", "1", "--drawings", "4", "--rows", "1"),
    *("--step-prompts", "2", "--iterations", "1", "--refine", "1", "--threads", "1", "--inversions", "1"),
    *("--faces", "2"),
    *("--photos", "1", "--masks", "1", "--methods", "optimisation", "global", "mapper", "--going-on", "1"),
]


def test_prompts_name_one_to_four_attributes_that_are_true_of_their_drawing() -> None:
    asked = list(cases.prompts(32))
    assert [len(case.named) for case in asked] == [1, 2, 3, 4] * 8
    for case in asked:
        shown = labels(case.drawing)
        assert all(shown[field] in values for field, values in case.named.items()), case
    assert [case.unseen for case in asked] == [case.drawing.held_out for case in asked]
    assert sum(case.unseen for case in asked) >= 10
    assert [case.prompt for case in asked] == [case.prompt for case in cases.prompts(32)]


def test_weights_are_tried_on_words_that_say_different_things() -> None:
    for one in cases.weighings(6):
        assert one.first.named and one.second.named
        assert not set(one.first.named) & set(one.second.named)
        assert set(one.part.named) < set(one.both.named)
        assert type(one.other) is type(one.first.drawing)


def test_an_edit_changes_the_attribute_it_names_and_no_measure() -> None:
    seen = set()
    for edit in cases.edits(80):
        before, after = labels(edit.face), labels(edit.after)
        assert before[edit.field] != after[edit.field]
        assert edit.field not in edit.kept and all(before[field] == after[field] for field in edit.kept)
        changed = {f.name for f in fields(Face) if getattr(edit.face, f.name) != getattr(edit.after, f.name)}
        assert changed <= {"headwear", "headwear_colour", edit.field}
        assert len(edit.kept) >= 10
        seen.add(edit.field)
    assert len(seen) == 11
    assert {"gender", "eye_colour", "background"} <= set(cases.face_fields()) < set(FIELDS)
    assert not {"sky", "car", "star"} & set(cases.face_fields())


def test_masks_have_room_for_what_is_there_and_what_is_asked() -> None:
    asked = list(masks.replacements(24))
    assert asked == list(masks.replacements(24)) != list(masks.replacements(24, key=1))
    for one in asked:
        before, after = draw(one.scene), draw(one.after)
        assert masks.untouched(before, after, one.mask) and before.tobytes() != after.tobytes()
        shown = labels(one.after)
        assert shown[one.kind] == one.colour and labels(one.scene)[one.kind] == "none"
        assert shown[masks.kind_before(one)] == "none" and not one.after.held_out
        assert 0.02 < np.mean(np.asarray(one.mask) > 0) < 0.8


def test_a_seam_is_measured_across_the_border_alone() -> None:
    mask = Image.new("L", (20, 20))
    mask.paste(255, (5, 5, 15, 15))
    picture = Image.new("RGB", (20, 20))
    picture.paste((30, 30, 30), (5, 5, 15, 15))
    assert masks.seam(picture, mask) == 30
    assert masks.seam(Image.new("RGB", (20, 20)), mask) == 0


def test_inversions_are_counted_by_what_they_wear_and_keep() -> None:
    bare = dict.fromkeys(FIELDS, "none") | {"hair_colour": "brown", "eye_colour": "blue"}
    hatted, crowned = bare | {"hat": "red"}, bare | {"crown": "crown"}
    rows = tally([bare, bare, hatted, hatted], [bare | {"earrings": "earrings"}, hatted, crowned, bare])
    assert rows["a hat or crown not there, but seen"] == [False, True]
    assert rows["a hat or crown there and seen"] == [True, False]
    assert rows["earrings not there, but seen"] == [True, False, False, False]
    assert rows["any of these"] == [True, True, False, False]
    assert rows["hair colour right"] == [True] * 4
    assert rows["skin right"] == []


def test_unseen_faces_are_photographed_the_same_every_time() -> None:
    one, again = (list(photographs(3)) for _ in range(2))
    assert one == again
    assert [face.held_out for face, _ in one] == [False, True, False]
    assert {picture.size for _, picture in one} == {(256, 256)}


def test_pictures_with_and_without_faces_are_of_many_kinds_and_sizes() -> None:
    shown, others = found_faces.faces_shown(14), found_faces.faceless(30)
    assert {side for _, picture in shown for side in picture.size} >= set(found_faces.SIDES[1:3])
    assert any("border" in kind for kind, _ in shown)
    assert {"chelsea.jpg", "coffee.jpg", "noise", "words", "one colour"} <= {kind for kind, _ in others}
    assert len(others) == 30


@pytest.mark.slow
def test_a_short_run_makes_tables_and_sheets_and_the_next_keeps_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([*TINY, "--out", str(tmp_path)])
    tables = "".join((tmp_path / f"{part}.md").read_text() for part in evaluate.PARTS)
    for row in (
        "their VQGAN reconstructions",
        "learned start alone",
        "learned start + optimisation",
        "noise start + optimisation",
        "10",
        "text_to_add, w1 = 5.0",
        "ne_img_enc, w3 = 2.5",
        "story: the last text's attributes",
        "noise | half as many further steps",
        "masked revisions",
        "changed",
        "inversion alone",
        "the drawn girl, ",
        "the photo's inversion",
        "any of these",
        "pictures without a face",
    ):
        assert f"| {row}" in tables, row
    printed = capsys.readouterr().out
    assert all(line in printed for line in tables.splitlines() if line.startswith("|"))
    sheets = {path.stem.rsplit("-", 1)[0] for path in tmp_path.glob("*.png")}
    assert {
        "autoencoder",
        "prompts-learned-start-optimisation",
        "weights",
        "edits",
        "faces",
        "inversions",
        "faces-found",
        "stories",
        "masks",
    } <= sheets
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    evaluate.main([*TINY, "--out", str(tmp_path), "--only", "prompts"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()} == made


@pytest.mark.parametrize("option", ["--prompts", "--step-prompts"])
def test_one_picture_has_no_distance(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.arguments([option, "1"])
    assert ended.value.code == 2
    assert f"{option} " in capsys.readouterr().err


def test_sheets_show_every_tile_with_its_words() -> None:
    tiles = [
        Tile(Image.new("RGB", (128, 128), colour), "a word", "wrong") for colour in ("red", "blue", "lime")
    ]
    first, second = pages(tiles, columns=2, rows=1)
    assert first.getpixel((5, 5)) == (255, 0, 0) and first.getpixel((SIDE + 20, 5)) == (0, 0, 255)
    assert second.getpixel((5, 5)) == (0, 255, 0)
    below = sheet([tiles[:1]]).crop((0, SIDE, SIDE, first.height))
    assert min(pixel[0] for _, pixel in below.getcolors(100_000)) < 60  # black letters
    assert wrapped("") == [] and wrapped("one two") == ["one two"]
    assert all(len(line) <= 25 for line in wrapped("a girl with purple eyes and a hat " * 5))
