"""The perceptor: CLIP, which embeds pictures and texts in the same space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (arXiv
2103.00020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.clip import CLIP, SHRINKING, ResNet, VisionTransformer
from mead.nn.image_towers import freeze
from mead.nn.resampling import resize
from mead.nn.state_dict import StateDict, StateDictError, build, count, shape
from mead.nn.tokeniser import END, START, load_tokeniser

VOCABULARY = END + 1  # size of CLIP's vocabulary: 49,408
LONGEST_TEXT = 4096  # tokens; published CLIPs read 77, some 248
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures CLIP was trained on, by channel
STD = (0.26862954, 0.26130258, 0.27577711)

HEAD = 64  # channels of an attention head
TRAITS = ("quick_gelu", "heads", "mean", "std")
"""What other tensors do not tell: whether GELUs are quick ones (0 or 1), the heads of the image and the text
tower [2], mean and deviation of the pictures it was trained on, by channel [3]."""


class Perceptor(nn.Module):
    """A CLIP with its tokeniser and its preprocessing of pictures.

    Args:
        model: a `mead.nn.clip.CLIP` or `open_clip.model.CLIP`, of any size.
        mean, std: of the pictures it was trained on, by channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.model = model
        self._dtype: torch.dtype | None = None  # that a frozen image tower computes in
        self._tokeniser = load_tokeniser()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Perceptor:
        """Build the CLIP that `state_dict` holds, with either kind of image tower, frozen and in float32.

        A table of token embeddings in half precision stays so: adding positions widens what is read.
        A compact state dict (see `expand`) is expanded first. Where it has no TRAITS, they are OpenAI's.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        # OpenAI's TorchScript files carry these sizes beside the weights, which say the same.
        sizes = ("input_resolution", "context_length", "vocab_size")
        expanded = expand(state_dict)
        weights = {key: tensor.float() for key, tensor in expanded.items() if key not in sizes}
        told = {key: weights.pop(key) for key in TRAITS if key in weights}
        traits = {key: tensor.tolist() for key, tensor in told.items() if not tensor.is_meta}
        try:
            model = build(lambda: _model_of(weights, traits), weights)
        except (ValueError, ZeroDivisionError, AssertionError) as error:
            raise StateDictError(str(error) or type(error).__name__) from error
        words = expanded["token_embedding.weight"]
        if words.dtype == torch.float16:  # as published; a table in float32 would take 100 MB
            model.token_embedding.weight = nn.Parameter(words)
        length = model.context_length
        if length > LONGEST_TEXT:
            raise StateDictError(f"positional_embedding is of {length:,} tokens, more than {LONGEST_TEXT:,}")
        model.mask_what_follows()
        colours = {key: traits[key] for key in ("mean", "std") if key in traits}
        return cls(model, **colours).requires_grad_(False).eval()

    def freeze(self, dtype: torch.dtype) -> Perceptor:
        """Embed pictures in `dtype` and faster from now on; the image tower cannot be trained or saved."""
        self.model.visual = freeze(self.model.visual, dtype)
        self._dtype = dtype
        return self

    @property
    def ignores_threads(self) -> bool:
        """Whether, once frozen, it rounds the same in bfloat16 however many threads divide a pass."""
        return bool(getattr(self.model.visual, "ignores_threads", False))

    @property
    def context_length(self) -> int:
        """Tokens of a text that CLIP reads, the start and end token included."""
        return int(self.model.context_length)

    @property
    def embed_dim(self) -> int:
        """Length of the embeddings."""
        return int(self.model.text_projection.shape[1])

    @property
    def input_size(self) -> int:
        """Side, in pixels, of the square pictures CLIP sees."""
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Texts -> token ids [N, context_length]. A longer text is cut and still ends with the end token."""
        room = self.model.context_length - 2
        ids = torch.zeros(len(texts), self.model.context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            tokens = [START, *self._tokeniser.encode(text)[:room], END]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids.to(self.mean.device)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> embeddings [N, d] of unit length."""
        return F.normalize(self.encode_text(texts), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> embeddings [N, d], as long as the text tower leaves them."""
        return self.encode_tokens(self.tokenise(texts))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids [N, context_length] -> embeddings [N, d], as long as the text tower leaves them."""
        model = self.model
        # a token attends to none after it, so what follows the longest text's end changes nothing
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
        length = tokens.shape[1]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        ends = x[torch.arange(len(x), device=x.device), tokens.argmax(1)]  # the end token's id is the largest
        embeddings: Tensor = ends @ model.text_projection
        return embeddings.float()

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> images normalised as those CLIP was trained on."""
        return (images - self.mean) / self.std

    def embed_image(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1] -> embeddings [N, d] of unit length.

        Images of another size are resized to it with antialiasing; the aspect ratio is not kept.
        """
        size = (self.input_size, self.input_size)
        if images.shape[-2:] != size:
            images = resize(images.float(), size)
        images = self.normalise(images)
        if self._dtype is not None:
            images = images.to(self._dtype)  # before the tower, which keeps what it is given until its end
        return F.normalize(self.model.encode_image(images).float(), dim=-1)


def _model_of(weights: StateDict, traits: Mapping[str, Any]) -> CLIP:
    """A CLIP with the sizes of a state dict.

    Raises:
        StateDictError: naming a key that is missing.
    """
    heads = [int(number) for number in traits.get("heads", ())]
    quick_gelu = bool(traits.get("quick_gelu", 1))
    embed_dim = shape(weights, "text_projection")[1]
    visual: nn.Module
    if "visual.proj" in weights:
        width, _, patch, _ = shape(weights, "visual.conv1.weight")
        side = math.isqrt(shape(weights, "visual.positional_embedding")[0] - 1)
        visual = VisionTransformer(
            image_size=patch * side,
            patch=patch,
            width=width,
            layers=count(weights, "visual.transformer.resblocks."),
            heads=heads[0] if heads else width // HEAD,
            embed_dim=embed_dim,
            quick_gelu=quick_gelu,
        )
    else:
        width = shape(weights, "visual.layer1.0.conv1.weight")[0]
        side = math.isqrt(shape(weights, "visual.attnpool.positional_embedding")[0] - 1)
        visual = ResNet(
            image_size=SHRINKING * side,
            width=width,
            layers=[count(weights, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
            heads=heads[0] if heads else width * SHRINKING // HEAD,
            embed_dim=embed_dim,
        )
    text_width = shape(weights, "ln_final.weight")[0]
    return CLIP(
        visual,
        embed_dim,
        context_length=shape(weights, "positional_embedding")[0],
        vocabulary=shape(weights, "token_embedding.weight")[0],
        width=text_width,
        layers=count(weights, "transformer.resblocks."),
        heads=heads[1] if heads else text_width // HEAD,
        quick_gelu=quick_gelu,
    )


def expand(state_dict: StateDict) -> dict[str, Tensor]:
    """Give a compact state dict its whole table of token embeddings; any other is returned unchanged.

    The compact form saves space for a CLIP trained on few words: `tokens` holds their ids [V], and
    `token_embedding.weight` has V + 1 rows, theirs and last one for every other token.

    Raises:
        StateDictError: where `tokens` and `token_embedding.weight` do not fit together.
    """
    expanded = dict(state_dict)
    tokens = expanded.pop("tokens", None)
    if tokens is None:
        return expanded
    n_rows = shape(state_dict, "token_embedding.weight")[0]
    if n_rows != len(tokens) + 1 or tokens.min() < 0 or tokens.max() >= VOCABULARY:
        raise StateDictError(f"{n_rows} rows of 'token_embedding.weight' do not fit {len(tokens)} 'tokens'")
    rows = state_dict["token_embedding.weight"]
    tokens = tokens.long().to(rows.device)  # a state dict on the meta device is checked as well
    expanded["token_embedding.weight"] = rows[-1].repeat(VOCABULARY, 1).index_copy(0, tokens, rows[:-1])
    return expanded
