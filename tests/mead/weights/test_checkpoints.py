"""Weight files of every published format are read, and those that would run code are refused unrun."""

from __future__ import annotations

import argparse
import functools
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mead.weights.checkpoints import CheckpointError, UnsafeCheckpointError, modules, read_checkpoint
from mead.weights.inert_data import Name, Placeholder
from tests import originals

SAVE: dict[str, Callable[[Any, Path], Any]] = {
    "archive": torch.save,
    "old": functools.partial(torch.save, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "pickle, protocol 0": lambda content, path: path.write_bytes(b"\x80\x02" + pickle.dumps(content, 0)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("kind", ["archive", "old", "pickle"])
def test_tensors_come_back_as_they_were(kind: str, path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    tensors = {
        "float": base,
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "ids": torch.arange(5),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
        "view": base[1:4, ::2],
        "transposed": base.T,
        "repeated": base[0].expand(3, 4),
        "number": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base),
    }
    SAVE[kind](tensors, path)
    read = read_checkpoint(path).content
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("kind", ["archive", "old"])
def test_other_objects_come_back_as_plain_data_or_placeholders(kind: str, path: Path) -> None:
    content = {
        "opts": argparse.Namespace(size=1024, name="x"),
        "score": np.float64(2.5),
        "steps": np.int64(3),
        "counts": defaultdict(list, {"a": [1]}),
        "ordered": OrderedDict(b=2, a=1),
        "device": torch.device("cuda:1"),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "path": Path("runs/1"),
        "array": np.arange(3),
        "mixed": [None, True, 1, -1, 1 << 80, 2.5, "é", b"\xff", (1, (2,)), {3}, frozenset({4})],
    }
    SAVE[kind](content, path)
    read = read_checkpoint(path).content
    opts = read.pop("opts")
    assert isinstance(opts, Placeholder) and opts.name == "argparse.Namespace"
    assert opts.state == {"size": 1024, "name": "x"}
    assert read.pop("path").arguments == ("runs", "1")
    assert read.pop("dtype") == Name("torch.float16")
    assert isinstance(read.pop("array"), Placeholder)
    assert read == {
        "score": 2.5,
        "steps": 3,
        "counts": {"a": [1]},
        "ordered": {"b": 2, "a": 1},
        "device": "cuda:1",
        "size": (2, 3),
        "mixed": content["mixed"],
    }


@pytest.mark.parametrize("kind", ["archive", "old"])
def test_classes_that_are_not_installed_become_placeholders(kind: str, path: Path) -> None:
    with originals.installed("no_such_package.models.Net", "no_such_package.AttrDict") as (net, attr_dict):
        model = net()
        model.__dict__ = {"depth": 3}
        SAVE[kind]({net: model, "config": attr_dict(a=1), "weight": torch.ones(2)}, path)
    imported = set(sys.modules)
    read = read_checkpoint(path).content
    assert set(sys.modules) == imported
    model = read[Name("no_such_package.models.Net")]
    assert (model.name, model.state) == ("no_such_package.models.Net", {"depth": 3})
    assert read["config"].entries == {"a": 1}
    assert torch.equal(read["weight"], torch.ones(2))


@pytest.mark.parametrize("kind", ["archive", "old", "pickle"])
def test_a_whole_module_gives_its_state_dict(kind: str, path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Conv2d(1, 1, 3)))
    SAVE[kind](network, path)
    read = modules(read_checkpoint(path).content)
    assert {key: tensor.tolist() for key, tensor in read.items()} == {
        key: tensor.tolist() for key, tensor in network.state_dict().items()
    }


def test_torchscript_and_safetensors(tmp_path: Path) -> None:
    tensors = {"visual.layers.0.weight": torch.randn(3, 4).half(), "visual.bias": torch.ones(2)}
    originals.clip(tensors, tmp_path / "scripted.pt")
    scripted = read_checkpoint(tmp_path / "scripted.pt")
    assert scripted.format == "TorchScript archive"
    read = modules(scripted.content)
    assert read["input_resolution"] == 224
    save_file(tensors, tmp_path / "plain.safetensors")
    plain = read_checkpoint(tmp_path / "plain.safetensors").content
    assert plain.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype and torch.equal(read[key], tensor)
        assert torch.equal(plain[key], tensor)


def test_tensors_are_mapped_and_the_file_stays_as_it_is(path: Path) -> None:
    torch.save({"weight": torch.zeros(1 << 26, dtype=torch.uint8), "small": torch.zeros(3)}, path)
    before = own_memory()
    read = read_checkpoint(path).content
    assert not read["weight"].any()  # looks at all of it
    assert own_memory() - before < 1 << 24
    read["small"] += 1
    assert not read_checkpoint(path).content["small"].any()


def own_memory() -> int:
    """Bytes of this process's memory that are no file's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) * 1024


# Files that would run code


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.called = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


MARK = Path("mark-of-code-that-was-run")
PYTHON = f"__import__('pathlib').Path({str(MARK)!r}).touch()"
ATTACKS = {
    "os.system": Call(os.system, f"touch {MARK}"),
    "builtins.eval": Call(eval, PYTHON),
    "builtins.exec": Call(exec, PYTHON),
    "torch.hub.load": Call(torch.hub.load, "someone/repository", "model"),
    "torch.serialization.load": Call(torch.load, "weights.pt"),
    "subprocess.Popen": Call(subprocess.Popen, ["touch", str(MARK)]),
    "subprocess.check_output": Call(subprocess.check_output, ["touch", str(MARK)]),
    "builtins.getattr": Call(getattr, nn.Module, "forward"),
    "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {MARK}"))),
    "importlib.import_module": Call(__import__("importlib").import_module, "antigravity"),
    "functools.partial": Call(functools.partial(os.system, f"touch {MARK}")),
    "operator.methodcaller": Call(__import__("operator").methodcaller, "system", "touch"),
    "builtins.map": Call(map, os.system, [f"touch {MARK}"]),
    "numpy.load": Call(np.load, "weights.npy", None, True),
    "torch.nn.functional.relu": Call(nn.functional.relu, 1),
}


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_pickle_that_calls_a_function_is_refused_by_its_name(
    name: str, kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    SAVE[kind]({"state_dict": {"weight": torch.ones(2)}, "callbacks": [ATTACKS[name]]}, path)
    with pytest.raises(UnsafeCheckpointError, match=rf"weights\.pt is refused: .*[ _]{name} ") as caught:
        read_checkpoint(path)
    assert "no code was run" in str(caught.value)
    assert not MARK.exists()


def test_the_attack_is_real(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    torch.save(ATTACKS["os.system"], path)
    torch.load(path, weights_only=False)
    assert MARK.exists()


# The same in opcodes that Python's pickler does not write so.
HAND_WRITTEN = {
    "an instance": b"(S'touch x'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'touch x'\no.",
    "a new object": b"cos\nsystem\n(S'touch x'\nt\x81.",
    "a new object with keywords": b"\x80\x04cos\nsystem\n(S'touch x'\nt}\x92.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch x'\ntR.",
    "a name within a class": b"\x80\x04\x8c\x0ftorch.nn.Module\x8c\x0bto.__call__\x93)R.",
    "an old module's name": b"c__builtin__\neval\n(S'1'\ntR.",
    "a state on a class": b"cpkg.mod\nNet\n}S'__setstate__'\ncos\nsystem\nsb.",
    "a state on a function": b"cos\nsystem\n}b.",
    "an extension": b"\x80\x02\x82\x01.",
    "the type of a tensor": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(S'x'\nt}tR.",
    "a reconstructor": b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\ncbuiltins\nobject\nNtR.",
    "an object it made": b"cpkg.mod\nNet\n)R)R.",
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_pickles_are_refused(name: str, path: Path) -> None:
    pickled = HAND_WRITTEN[name]
    path.write_bytes(pickled if pickled.startswith(b"\x80") else b"\x80\x02" + pickled)
    with pytest.raises(UnsafeCheckpointError, match=r"it would (call|change) "):
        read_checkpoint(path)


def test_source_code_in_a_pickle_of_nvidias_stays_text(path: Path) -> None:
    originals.nvidia({"mapping.fc0.weight": torch.ones(2, 2), "synthesis.b4.const": torch.ones(3)}, path)
    network = read_checkpoint(path).content["G_ema"]
    assert modules(network)["mapping.fc0.weight"].tolist() == [[1, 1], [1, 1]]


# Pickles that would take all memory or never end, and damaged files
BOMBS = {
    "a tuple within a tuple, as a key": b"}(" + b"K\x01" + b"2\x86" * 60 + b"Nu.",
    "bytes without end": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x.",
    "a bytearray of a size": b"cbuiltins\nbytearray\n\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x0f\x85R.",
    "text of an encoding": b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    "copies of copies": b"X\x00\x10\x00\x00"
    + b"x" * 4096
    + b"q\x000"
    + b"c_codecs\nencode\nh\x00\x85R0" * 20_000
    + b"K\x01b.",
    "a list of a number": b"cbuiltins\nset\nK\x01\x85R.",
    "items for a list": b"](K\x01K\x02u.",
    "an item for a number": b"K\x01K\x01a.",
    "the stack's end": b"0R.",
    "no memo": b"h\x09.",
    "something outside": b"K\x01Q.",
    "something endless outside": b"K\x01" + b"2\x86" * 60 + b"Q.",
    "no end": b"K\x01",
}


TUPLES = b"K\x01" + b"2\x86" * 60  # within each other: 2**60 ones
MANY = b"(" + b"N" * 100_000 + b"tq\x010"  # a tuple, kept in the memo
COLLIDING = [index * ((1 << 61) - 1) for index in range(1, 20_000)]
TEXT = b"X\x00\x00\x10\x00" + b"x" * (1 << 20)  # a megabyte
RECONSTRUCTOR = b"ccopyreg\n_reconstructor\n"
BOMBS |= {
    "keys of one hash": b"}(" + b"".join(b"L%dL\nN" % number for number in COLLIDING) + b"u.",
    "keys of pairs": b"}(" + b"".join(b"I%d\n\x85N" % number for number in range(20_000)) + b"u.",
    "places of one hash": b"N" + b"".join(b"p%d\n" % number for number in COLLIDING) + b".",
    "long keys that are compared": b"}" + TEXT + b"Ns" + TEXT + b"q\x01Ns" + b"h\x01Ns" * 2_000 + b".",
    "copies of arguments": MANY + b"ccopyreg\n__newobj__\nq\x020" + b"h\x02h\x01R0" * 1_000 + b".",
    "a reconstructor of reconstructors": RECONSTRUCTOR + b"(" + RECONSTRUCTOR * 900 + MANY[1:-3] + b"R.",
    "copies of a set": MANY + b"cbuiltins\nset\nh\x01\x85R0" * 1_000 + b"K\x01b.",
    "many axes": MANY + b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00h\x01h\x01tR.",
    "a long name": b"c" + b"a" * 100_000 + b"\nNet\n.",
    "a name that moves the cursor": b"c\x1b[2J\nNet\n)R.",
    "empty sets": b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
    "digits": b"L" + b"9" * 1_000_000 + b"L\n.",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_nonsense_are_errors_that_name_the_file(name: str, path: Path) -> None:
    pickled = BOMBS[name]
    path.write_bytes(pickled if pickled.startswith(b"\x80") else b"\x80\x02" + pickled)
    before = own_memory()
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        read_checkpoint(path)
    assert own_memory() - before < 1 << 28


@pytest.mark.parametrize(
    "pickled",
    [
        b"ctorch\ndevice\n(" + TUPLES + b"tR.",
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}S'class_name'\n" + TUPLES + b"s\x85R.",
        b"]" * 200_000 + b"a" * 199_999 + b".",
    ],
    ids=["a device", "a class's name", "lists"],
)
def test_what_is_deeply_nested_is_read_and_left(pickled: bytes, path: Path) -> None:
    path.write_bytes(b"\x80\x02" + pickled)
    before = own_memory()
    read_checkpoint(path)
    assert own_memory() - before < 1 << 28


def test_modules_that_are_part_of_themselves_have_an_end(path: Path) -> None:
    def module(*names: str) -> bytes:
        parts = b"".join(b"X" + len(name).to_bytes(4, "little") + name.encode() + b"h\x00" for name in names)
        return b"\x80\x02cpkg\nNet\nq\x020h\x02)\x81q\x00}X\x08\x00\x00\x00_modules}(" + parts + b"usb."

    for names in [("n" * 20_000,), ("a", "b")]:
        path.write_bytes(module(*names))
        assert modules(read_checkpoint(path).content) == {}


def test_a_storage_that_is_referred_to_often_is_copied_once(path: Path) -> None:
    """It lies at an odd place of the file, where no number can begin."""
    storage = torch.ones(1 << 20)
    torch.save([storage[index << 10 :] for index in range(0, 1024, 8)], path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for odd in range(1, 4):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x" * odd, b"")
            for name, data in entries.items():
                archive.writestr(name, data)
        before = own_memory()
        read = read_checkpoint(path).content
        assert all(bool(tensor.all()) for tensor in read)
        assert own_memory() - before < 1 << 24


def test_tensors_of_other_kinds_beside_the_weights_are_left(path: Path) -> None:
    ones = torch.ones(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these are experiments of PyTorch's
        strange = {
            "sparse": ones.to_sparse(),
            "csr": ones.to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
            "nested": torch.nested.nested_tensor([ones, ones]),
            "meta": ones.to("meta"),
        }
    usual = {"complex": ones.to(torch.complex64), "float8": ones.to(torch.float8_e4m3fn), "weight": ones}
    torch.save(strange | usual, path)
    read = read_checkpoint(path).content
    assert {name: read[name].kind for name in strange} == {
        "sparse": "a sparse tensor",
        "csr": "a sparse tensor",
        "quantised": "a quantised tensor",
        "nested": "a nested tensor",
        "meta": "a meta tensor",
    }
    assert all(torch.equal(read[name].to(torch.complex64), usual["complex"]) for name in usual)


def test_safetensors_of_other_kinds_are_left_and_long_headers_refused(path: Path) -> None:
    def write(header: dict[str, Any], data: bytes) -> None:
        said = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(said)) + said + data)

    six = {"dtype": "F6_E2M3", "shape": [2, 2], "data_offsets": [0, 3]}
    write({"six": six, "weight": {"dtype": "F32", "shape": [1], "data_offsets": [3, 7]}}, bytes(7))
    read = read_checkpoint(path).content
    assert read["weight"].tolist() == [0] and "F6_E2M3" in read["six"].kind
    write({"__metadata__": {"a": "x" * 9_000_000}}, b"")
    with pytest.raises(CheckpointError, match=r"weights\.pt.*its header has 9,000,0"):
        read_checkpoint(path)


def test_a_pipe_is_no_weight_file(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"weights\.pt is not a regular file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (-1, (1,), (1,)),
        (0, (2,), (1 << 62,)),
        (0, (1 << 40,), (0,)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], path: Path
) -> None:
    class Wrong:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    storage = torch.zeros(4).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)  # type: ignore[assignment]
    torch.save(Wrong(), path)
    with pytest.raises(CheckpointError, match="tensor"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["archive", "old", "pickle", "TorchScript", "safetensors"])
def test_a_damaged_file_is_an_error_wherever_it_is_damaged(kind: str, path: Path) -> None:
    tensors = {"a.weight": torch.randn(50, 3), "b": torch.ones(3).half()}
    if kind in SAVE:
        SAVE[kind]({"state_dict": tensors, "epoch": 3}, path)
    else:
        (originals.clip if kind == "TorchScript" else save_file)(tensors, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"weights\.pt"):
            read_checkpoint(path)
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)  # what is left may still be whole
        except CheckpointError as error:
            assert "weights.pt" in str(error)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "neither"),
    ],
)
def test_what_is_no_weight_file_is_told(start: bytes, says: str, path: Path) -> None:
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=rf"weights\.pt.*{says}"):
        read_checkpoint(path)


def test_archives_of_others_and_compressed_ones_are_told(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not one of torch"):
        read_checkpoint(path)
    torch.save({"weight": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)
