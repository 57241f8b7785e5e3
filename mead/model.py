"""The base of the models' Python classes: check the arguments, make the pictures, write them."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mead.files import write_whole
from mead.imaging.encoding import add_texts, write_picture
from mead.imaging.faces import FoundFace
from mead.imaging.timelapse import writer_of
from mead.nn.precision import best_device, check_device
from mead.output import try_output
from mead.params import JobParams, check
from mead.provenance import chunks_of
from mead.revision import Pipeline, Progress, Revision, begin_timelapse, finish, start
from mead.weights.notes import notes_on
from mead.weights.optional import check_optional
from mead.weights.texts import check_texts

AT_ONCE = 4
"""Pictures that advance together; more would take more memory and hardly less time."""


class NoteWarning(UserWarning):
    """Something that a model was given cannot have its effect."""


class Model:
    """One job of one model, or several that differ in their seed, run in this process.

    Attributes:
        notes: what of the arguments was taken but cannot have its effect, each in a sentence: words that the
            weights have not learned, a text whose weight is 0; once it has run, also what its pictures let
            know. Each is also a `NoteWarning`.
        faces: found in the photo, from the left, once it has run; see `mead.revision.Revision.faces`.
        made: the path of the (first) picture, its finished revision and parameters, once it has run.

    Args:
        kind: the model's parameters.
        given: their values; None means left out.
        load: loads the pipeline of a weights set on a device.
        output_path: folder for the PNG, created if needed.
        weights: name of a weights set.
        device: PyTorch device; None: the GPU if there is one.
        callback: called with a `Progress` after each step.
        progress: whether `run` shows a progress bar.
        name: the (first) PNG's name without its suffix; None: a new one for each run.

    Raises:
        ValueError: naming the argument that is wrong.
        FileNotFoundError: naming the picture that does not exist.
    """

    def __init__(
        self,
        kind: type[JobParams],
        given: Mapping[str, Any],
        load: Callable[[str, str], Pipeline[Any]],
        output_path: str | Path,
        weights: str,
        device: str | None,
        callback: Callable[[Progress], None] | None,
        progress: bool = False,
        name: str | None = None,
    ) -> None:
        self.params = check(kind, {key: value for key, value in given.items() if value is not None})
        for field, path in self.params.pictures().items():
            _check_readable(path, f"{field}_path")
        try:
            self.output_path = Path(output_path)
        except TypeError as error:
            raise ValueError(f"output_path: {error}") from error
        self.weights = weights
        self.device = device or best_device()
        check_device(self.device)
        check_texts(self.params, weights)  # reads the manifest, no weights
        check_optional(self.params, weights)
        self.notes: tuple[str, ...] = ()
        self._note(notes_on(self.params, weights), stacklevel=4)  # at the line that makes the model's object
        self.callback = callback
        self.progress = progress
        self.name = name
        self._load = load
        self.faces: tuple[FoundFace, ...] = ()
        self._made: list[tuple[Path, Any]] = []  # the pictures made last

    def __repr__(self) -> str:
        """What `run` will make: the seed and all arguments that are not the defaults, as they are passed."""
        given = [repr(self.params.prompt)] if self.params.prompt else []
        for name, field in type(self.params).model_fields.items():
            value = getattr(self.params, name)
            if name != "prompt" and value != field.default:
                given.append(f"{name}={str(value)!r}" if isinstance(value, Path) else f"{name}={value!r}")
        given += [f"weights={self.weights!r}", f"device={self.device!r}"]
        return f"{type(self).__name__}({', '.join(given)})"

    def run(self) -> str:
        """Make the picture of `seed` and return the path of its PNG.

        Several threads may call it at the same time; they share the networks.

        Raises:
            OSError: if `output_path` cannot be written, before any weights are loaded.
            WeightsError: if the weights are missing.
            PictureError: (a ValueError) naming a picture that cannot be used.
            FloatingPointError: if a loss or the picture is not finite, naming the step.
            RuntimeError: in a process forked after networks were loaded, see `mead.weights.loading`.
        """
        return self._make(self.params.variants()[:1])[0]

    def run_all(self) -> list[str]:
        """Make `n` pictures, with the seeds `seed`, `seed` + 1 and so on, and return the paths of their PNGs.

        AT_ONCE of them advance together, each as it would alone. Raises as `run`.
        """
        return self._make(self.params.variants())

    def timelapse(self, path: str | Path, variant: int = 0) -> str:
        """Write the time-lapse of the picture made last, of the `frames` kept; returns the path.

        Args:
            path: a file that ends in .webp, for an animated WebP, or in .mp4.
            variant: which of several pictures, from 0 on.

        Raises:
            ValueError: for another path, or if no frames were kept.
            IndexError: if there is no such picture, or none yet.
            NoVideoError: for an .mp4 without the package "av".
            OSError: if it cannot be written.
        """
        made_by = writer_of(Path(path), "path")
        if variant not in range(len(self._made)):
            raise IndexError(f"variant: {variant}, of {len(self._made)} pictures that were made")
        lapse = self._made[variant][1].timelapse
        if lapse is None:
            raise ValueError("frames: none were kept; ask for some, as in frames=24")
        write_whole(Path(path), made_by(lapse.webp()))
        return str(path)

    def _make(self, variants: Sequence[JobParams]) -> list[str]:
        paths = self._paths(len(variants))
        pipeline = self._load(self.weights, self.device)
        self._made = []
        with self._bar(len(variants)) as callback:
            for first in range(0, len(variants), AT_ONCE):
                together = variants[first : first + AT_ONCE]
                revisions = [start(pipeline, params) for params in together]
                self.faces = revisions[0].faces
                self._note(revisions[0].notes, stacklevel=4)  # at the line that runs it
                pictures = finish(pipeline, revisions, callback and partial(_number, callback, first))
                for params, revision, picture in zip(together, revisions, pictures, strict=True):
                    path = paths[len(self._made)]
                    self._write(picture, path, params, revision)
                    self._made.append((path, revision))
        return [str(path) for path in paths]

    def _go_on(self, iterations: int) -> str:
        """Take further steps with the picture that `run` has made last, and return the path of a new PNG."""
        if len(self._made) != 1:
            raise RuntimeError("resume: goes on with the picture that run() has made; call that first")
        ((_, revision),) = self._made
        check(type(self.params), {"prompt": self.params.prompt, "iterations": iterations})
        given = {**self.params.model_dump(), "n": 1, "iterations": revision.steps + iterations}
        params = check(type(self.params), given)
        (path,) = self._paths(1)
        pipeline = self._load(self.weights, self.device)
        with self._bar(1, done=revision.step) as callback:
            revision.steps += iterations
            begin_timelapse(pipeline, revision, params.frames)
            (picture,) = finish(pipeline, [revision], callback)
        self._write(picture, path, params, revision)
        return str(path)

    def _note(self, notes: Sequence[str], stacklevel: int) -> None:
        """Add notes that are new."""
        for note in notes:
            if note not in self.notes:
                self.notes += (note,)
                warnings.warn(note, NoteWarning, stacklevel=stacklevel)

    def _paths(self, n: int) -> list[Path]:
        """The files of the next `n` pictures; it is tried whether they can be written."""
        name = self.name or str(uuid.uuid4())
        names = [name, *(f"{name}-{number}" for number in range(2, n + 1))]
        paths = [self.output_path / f"{name}.png" for name in names]
        try_output(paths[-1], "output_path")
        return paths

    def _write(self, picture: Image.Image, path: Path, params: JobParams, revision: Revision) -> None:
        """Write a picture that says how it was made."""
        further = revision.steps - revision.planned
        add_texts(picture, chunks_of(params, revision.steps, type(self).__name__, self.weights, further))
        write_picture(picture, path)

    @contextmanager
    def _bar(self, pictures: int, done: int = 0) -> Iterator[Callable[[Progress], None] | None]:
        """A progress bar, if it was asked for; yields the callback that moves it and calls the user's.

        Args:
            done: steps that were made before.
        """
        if not self.progress:
            yield self.callback
            return
        from tqdm.auto import tqdm  # which looks for a notebook when it is imported

        with tqdm(desc=type(self).__name__, unit="step", initial=done) as bar:

            def step(progress: Progress) -> None:
                bar.total = pictures * progress.steps
                bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
                bar.update()
                if self.callback is not None:
                    self.callback(progress)

            yield step


def _number(callback: Callable[[Progress], None], first: int, progress: Progress) -> None:
    """Call back with the number that a picture has among all that are made."""
    callback(replace(progress, variant=first + progress.variant))


def _check_readable(path: Path, argument: str) -> None:
    """Check that a picture can be opened.

    Raises:
        FileNotFoundError: if there is no such file (a folder, pipe or device is not one).
        OSError: if it may not be read.
    """
    try:
        if path.is_file():
            path.open("rb").close()
            return
    except OSError as error:
        raise type(error)(f"{argument}: cannot read {path}: {error.strerror}") from error
    there = "is not a file" if path.exists() else "does not exist"
    raise FileNotFoundError(f"{argument}: {str(path)!r} {there}")
