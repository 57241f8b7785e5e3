"""What a picture is optimised towards: texts and pictures as CLIP embeds them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.params import LatentRevisionsParams
from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_tensor
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.params import ParamsError


class Aims:
    """Embeds what a job aims at.

    Args:
        perceptor: CLIP.
        device: its device.
    """

    def __init__(self, perceptor: Perceptor, device: torch.device) -> None:
        self.perceptor = perceptor
        self.device = device
        self.precision = Precision(device)

    def targets(self, params: LatentRevisionsParams) -> Tensor:
        """unit(w0 E(prompt) + w1 E(text_to_add) + Σ wᵢ E(promptsᵢ) + w2 E(img_enc) - w3 E(ne_img_enc)), [d],
        for the prompt and each text of the story: [1 + texts, d].

        A positive w3 moves away from ne_img_enc.

        Raises:
            ParamsError: if texts and pictures cancel out.
            PictureError, FileNotFoundError: for a picture that cannot be read.
        """
        others = []
        if params.text_to_add is not None:
            others.append(params.w1 * self._embed_text(params.text_to_add))
        others += [weight * self._embed_text(text) for text, weight in params.weighted_prompts]
        if params.img_enc_path is not None:
            others.append(params.w2 * self._embed_file(params.img_enc_path, "img_enc"))
        if params.ne_img_enc_path is not None:
            others.append(-params.w3 * self._embed_file(params.ne_img_enc_path, "ne_img_enc"))
        targets = []
        for text in params.chapters:
            target = sum(others, start=params.w0 * self._embed_text(text))
            if target.norm() < 1e-6:
                message = "the weighted texts and pictures cancel each other out; nothing is left to aim at"
                raise ParamsError("w0", message, out_of_range=True)
            targets.append(F.normalize(target, dim=0))
        return torch.stack(targets)

    def embed_picture(self, picture: Image.Image) -> Tensor:
        """A picture's embedding, [d]; a square of its middle counts."""
        size = self.perceptor.input_size
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        with self.precision.autocast():
            return self.perceptor.embed_image(to_tensor(picture).to(self.device))[0]

    def _embed_text(self, text: str) -> Tensor:
        """[d]"""
        return self.perceptor.embed_text([text])[0]

    def _embed_file(self, path: Path, field: str) -> Tensor:
        """[d]"""
        return self.embed_picture(read_picture(path, field))
