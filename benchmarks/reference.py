"""The published algorithms, written as plainly as they are published: what `benchmarks.speed` compares with.

Float32, eager, one job at a time, every cutout cropped and resized alone, StyleGAN2's weights modulated for
each sample. The networks are functions of state dicts in the published layouts. Losses, optimisers and their
settings are the pipelines'.

- Latent Revisions: Murdoch's notebook of 2021, with VQGAN (Esser et al., arXiv 2012.09841)
- StyleCLIP's latent optimisation: Patashnik et al., arXiv 2103.17249, with StyleGAN2 (Karras et al., arXiv
  1912.04958) and ArcFace (Deng et al., arXiv 1801.07698)
- CLIP: Radford et al., arXiv 2103.00020, by open_clip's modules
"""

from __future__ import annotations

import math
from itertools import count

import open_clip
import torch
from open_clip.model import build_model_from_openai_state_dict
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import GaussianBlur, RandomAffine
from torchvision.transforms.functional import hflip

from LatentRevisions.guide import AWAY_FROM
from LatentRevisions.hyperparameters import Hyperparameters as LatentRevisionsHyperparameters
from LatentRevisions.pipeline import LATENT_LIMIT
from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.nn.perceptor import MEAN, STD, expand
from mead.nn.state_dict import StateDict
from StyleCLIP.hyperparameters import Hyperparameters as StyleCLIPHyperparameters


def floats(state_dict: StateDict) -> dict[str, Tensor]:
    """A state dict in float32, whatever it is stored in."""
    return {key: tensor.float() for key, tensor in state_dict.items()}


class CLIP:
    """CLIP of a state dict in OpenAI's layout.

    Args:
        frozen: whether only pictures get gradients, not the weights.
    """

    def __init__(self, state_dict: StateDict, frozen: bool = True) -> None:
        weights = floats(expand(state_dict))
        self.model = build_model_from_openai_state_dict(dict(weights), cast_dtype=torch.float32).float()
        self.model.load_state_dict(weights)  # once more: the builder rounds to half precision
        self.model.requires_grad_(not frozen)
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        size = self.model.visual.image_size
        self.side = size if isinstance(size, int) else size[0]

    def embed_text(self, text: str) -> Tensor:
        """Text -> embedding [d] of unit length."""
        tokens = open_clip.tokenize([text], self.model.context_length)
        return F.normalize(self.model.encode_text(tokens)[0], dim=0)

    def embed_image(self, images: Tensor) -> Tensor:
        """Images [N, 3, side, side] in [0, 1] -> embeddings [N, d] of unit length."""
        return F.normalize(self.model.encode_image((images - self.mean) / self.std), dim=1)


def cutouts(picture: Tensor, hyper: CutoutHyperparameters, side: int) -> Tensor:
    """Random cutouts of a picture [1, 3, H, W], each cropped and resized alone: [cutouts, 3, side, side]."""
    shorter = min(picture.shape[2:])
    padded = F.pad(picture, [shorter // 2] * 4)
    padded = hflip(padded) if torch.rand(()) < 0.5 else padded
    padded = RandomAffine(hyper.cutout_degrees, (hyper.cutout_shift, hyper.cutout_shift))(padded)
    height, width = padded.shape[2:]
    crops = []
    for _ in range(hyper.cutouts):
        drawn = torch.normal(hyper.cutout_mean, hyper.cutout_deviation, ())
        size = int(drawn.clamp(hyper.cutout_smallest, hyper.cutout_largest) * shorter)
        top = int(torch.randint(0, height - size, ()))
        left = int(torch.randint(0, width - size, ()))
        crop = padded[:, :, top : top + size, left : left + size]
        crops.append(F.interpolate(crop, (side, side), mode="bilinear", align_corners=True))
    stacked = torch.cat(crops)
    return stacked + hyper.cutout_noise * torch.rand(len(stacked), 1, 1, 1) * torch.randn_like(stacked)


# --- VQGAN


def conv(w: StateDict, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """The convolution `name` of x [N, in, H, W]."""
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, padding)


def group_norm(w: StateDict, name: str, x: Tensor) -> Tensor:
    """x [N, C, H, W] normalised in 32 groups, or in as many as the state dict says."""
    groups = math.gcd(int(w.get("norm_groups", torch.tensor(32))), x.shape[1])
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def residual_block(w: StateDict, name: str, x: Tensor) -> Tensor:
    h = conv(w, f"{name}.conv1", swish(group_norm(w, f"{name}.norm1", x)), padding=1)
    h = conv(w, f"{name}.conv2", swish(group_norm(w, f"{name}.norm2", h)), padding=1)
    return h + (conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def attention(w: StateDict, name: str, x: Tensor) -> Tensor:
    """Self-attention between all positions of x [N, C, H, W], added to it."""
    n, channels, height, width = x.shape
    h = group_norm(w, f"{name}.norm", x)
    q, k, v = (conv(w, f"{name}.{part}", h).reshape(n, channels, height * width) for part in "qkv")
    weights = torch.softmax(torch.bmm(q.permute(0, 2, 1), k) * channels**-0.5, dim=2)  # [N, HW, HW]
    h = torch.bmm(v, weights.permute(0, 2, 1)).reshape(n, channels, height, width)
    return x + conv(w, f"{name}.proj_out", h)


def blocks(w: StateDict, name: str, x: Tensor) -> Tensor:
    """The residual blocks of a level, each followed by attention where the level has it."""
    for i in count():
        if f"{name}.block.{i}.conv1.weight" not in w:
            return x
        x = residual_block(w, f"{name}.block.{i}", x)
        if f"{name}.attn.{i}.q.weight" in w:
            x = attention(w, f"{name}.attn.{i}", x)
    return x


def middle(w: StateDict, name: str, x: Tensor) -> Tensor:
    x = attention(w, f"{name}.attn_1", residual_block(w, f"{name}.block_1", x))
    return residual_block(w, f"{name}.block_2", x)


def levels(w: StateDict) -> int:
    """Number of VQGAN's resolutions."""
    return next(i for i in count() if f"decoder.up.{i}.block.0.conv1.weight" not in w)


def encode(w: StateDict, image: Tensor) -> Tensor:
    """Image [N, 3, H, W] in [-1, 1] -> z [N, embed_dim, h, w], not quantised."""
    x = conv(w, "encoder.conv_in", image, padding=1)
    for i in range(levels(w)):
        x = blocks(w, f"encoder.down.{i}", x)
        if f"encoder.down.{i}.downsample.conv.weight" in w:
            x = conv(w, f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
    x = swish(group_norm(w, "encoder.norm_out", middle(w, "encoder.mid", x)))
    return conv(w, "quant_conv", conv(w, "encoder.conv_out", x, padding=1))


def decode(w: StateDict, z: Tensor) -> Tensor:
    """z [N, embed_dim, h, w] -> image [N, 3, H, W], about [-1, 1]."""
    x = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", z), padding=1)
    x = middle(w, "decoder.mid", x)
    for i in reversed(range(levels(w))):
        x = blocks(w, f"decoder.up.{i}", x)
        if f"decoder.up.{i}.upsample.conv.weight" in w:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = conv(w, f"decoder.up.{i}.upsample.conv", x, padding=1)
    return conv(w, "decoder.conv_out", swish(group_norm(w, "decoder.norm_out", x)), padding=1)


class LatentRevisions:
    """One job of Latent Revisions, from blurred noise. Its networks are frozen, as in the published code.

    Args:
        clip: frozen, shared by all jobs.
        vqgan: a float32 state dict, shared by all jobs.
        hyper: the weights set's.
        prompt: what the picture should show.
        size: width and height of the picture, in pixels.
    """

    def __init__(
        self,
        clip: CLIP,
        vqgan: StateDict,
        hyper: LatentRevisionsHyperparameters,
        prompt: str,
        size: tuple[int, int],
    ) -> None:
        self.clip, self.vqgan, self.hyper = clip, vqgan, hyper
        with torch.no_grad():
            self.target, self.away_from = clip.embed_text(prompt), clip.embed_text(AWAY_FROM)
            noise = GaussianBlur(7, 14.0)(0.5 * torch.rand(1, 3, size[1], size[0]))
            self.z = encode(vqgan, noise * 2 - 1).requires_grad_()
        self.optimiser = torch.optim.AdamW([self.z], hyper.learning_rate, weight_decay=hyper.weight_decay)

    def step(self) -> float:
        """One step of the optimisation; returns the loss before it."""
        picture = (decode(self.vqgan, self.z.clamp(-LATENT_LIMIT, LATENT_LIMIT)).clamp(-1, 1) + 1) / 2
        embeddings = self.clip.embed_image(cutouts(picture, self.hyper, self.clip.side))
        loss = self.loss(embeddings)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def loss(self, embeddings: Tensor) -> Tensor:
        """The loss of the cutouts' embeddings [cutouts, d]."""
        towards = torch.cosine_similarity(self.target[None], embeddings)
        away = torch.cosine_similarity(self.away_from[None], embeddings)
        return (self.hyper.away * away - self.hyper.towards * towards).mean()


# --- StyleGAN2


def upfirdn(x: Tensor, kernel: Tensor, up: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Put zeros between the pixels of x [N, C, H, W], pad at the start and the end, filter with [k, k]."""
    n, channels, height, width = x.shape
    x = F.pad(x.reshape(n * channels, 1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(n * channels, 1, height * up, width * up), (*padding, *padding))
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])
    return x.reshape(n, channels, *x.shape[2:])


def blur_kernel() -> Tensor:
    """StyleGAN2's filter for doubled sides: it sums to 4."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 16


def modulated_conv(
    w: StateDict, name: str, x: Tensor, code: Tensor, demodulate: bool = True, upsample: bool = False
) -> Tensor:
    """Convolve each sample of x [N, in, H, W] with its own weights, by groups; code is [N, style_dim]."""
    n, in_channels, height, width = x.shape
    linear = w[f"{name}.modulation.weight"]
    style = F.linear(code, linear / math.sqrt(linear.shape[1]), w[f"{name}.modulation.bias"])
    weight = w[f"{name}.weight"]  # [1, out, in, k, k]
    weight = weight / math.sqrt(weight[0, 0].numel()) * style[:, None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, n * in_channels, height, width)
    if upsample:
        weight = weight.transpose(1, 2).flatten(0, 1)  # [N in, out, k, k]
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        return upfirdn(x.reshape(n, -1, *x.shape[2:]), blur_kernel(), padding=(1, 1))
    padding = weight.shape[-1] // 2
    x = F.conv2d(x, weight.flatten(0, 1), padding=padding, groups=n)
    return x.reshape(n, -1, height, width)


def styled_conv(
    w: StateDict, name: str, x: Tensor, code: Tensor, noise: Tensor, upsample: bool = False
) -> Tensor:
    x = modulated_conv(w, f"{name}.conv", x, code, upsample=upsample)
    x = x + w[f"{name}.noise.weight"] * noise
    return F.leaky_relu(x + w[f"{name}.activate.bias"][:, None, None], 0.2) * math.sqrt(2)


def to_rgb(w: StateDict, name: str, x: Tensor, code: Tensor, skip: Tensor | None = None) -> Tensor:
    rgb = modulated_conv(w, f"{name}.conv", x, code, demodulate=False) + w[f"{name}.bias"]
    return rgb if skip is None else rgb + upfirdn(skip, blur_kernel(), up=2, padding=(2, 1))


def synthesise(w: StateDict, codes: Tensor) -> Tensor:
    """Codes w+ [N, n_latent, style_dim] -> image [N, 3, size, size], about [-1, 1], with the stored noise."""
    x = w["input.input"].repeat(len(codes), 1, 1, 1)
    x = styled_conv(w, "conv1", x, codes[:, 0], w["noises.noise_0"])
    rgb = to_rgb(w, "to_rgb1", x, codes[:, 1])
    for i in range((codes.shape[1] - 2) // 2):
        a, b = 2 * i, 2 * i + 1
        x = styled_conv(w, f"convs.{a}", x, codes[:, a + 1], w[f"noises.noise_{a + 1}"], upsample=True)
        x = styled_conv(w, f"convs.{b}", x, codes[:, b + 1], w[f"noises.noise_{b + 1}"])
        rgb = to_rgb(w, f"to_rgbs.{i}", x, codes[:, b + 2], rgb)
    return rgb


# --- ArcFace's identity, IR-SE50


def batch_norm(w: StateDict, name: str, x: Tensor) -> Tensor:
    statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"])


def squeeze_excite(w: StateDict, name: str, x: Tensor) -> Tensor:
    means = F.adaptive_avg_pool2d(x, 1)
    return x * torch.sigmoid(conv(w, f"{name}.fc2", F.relu(conv(w, f"{name}.fc1", means))))


def bottleneck(w: StateDict, name: str, x: Tensor, stride: int) -> Tensor:
    h = conv(w, f"{name}.res_layer.1", batch_norm(w, f"{name}.res_layer.0", x), padding=1)
    h = F.prelu(h, w[f"{name}.res_layer.2.weight"])
    h = batch_norm(w, f"{name}.res_layer.4", conv(w, f"{name}.res_layer.3", h, stride, padding=1))
    h = squeeze_excite(w, f"{name}.res_layer.5", h)
    if f"{name}.shortcut_layer.0.weight" in w:
        shortcut = conv(w, f"{name}.shortcut_layer.0", x, stride)
        return h + batch_norm(w, f"{name}.shortcut_layer.1", shortcut)
    return h + F.max_pool2d(x, 1, stride)


def identity_features(w: StateDict, image: Tensor) -> Tensor:
    """Aligned face [N, 3, S, S] in [-1, 1] -> features [N, d] of unit length."""
    if image.shape[-1] > 256:
        image = F.adaptive_avg_pool2d(image, 256)
    edge = image.shape[-1] / 256
    face = image[:, :, round(35 * edge) : round(223 * edge), round(32 * edge) : round(220 * edge)]
    blocks = next(i for i in count() if f"body.{i}.res_layer.1.weight" not in w)
    firsts = {i for i in range(blocks) if i == 0 or f"body.{i}.shortcut_layer.0.weight" in w}  # of a stage
    linear, channels = w["output_layer.3.weight"], len(w["output_layer.0.weight"])
    side = math.isqrt(linear.shape[1] // channels) * 2 ** len(firsts)  # 112 as published
    if face.shape[-1] >= side:
        x = F.adaptive_avg_pool2d(face, side)
    else:
        x = F.interpolate(face, (side, side), mode="bilinear")
    x = batch_norm(w, "input_layer.1", conv(w, "input_layer.0", x, padding=1))
    x = F.prelu(x, w["input_layer.2.weight"])
    for i in range(blocks):
        x = bottleneck(w, f"body.{i}", x, stride=2 if i in firsts else 1)
    x = batch_norm(w, "output_layer.0", x).flatten(1)
    x = F.linear(x, linear, w["output_layer.3.bias"])
    return F.normalize(batch_norm(w, "output_layer.4", x), dim=1)


class StyleCLIP:
    """One job of StyleCLIP's latent optimisation.

    As in the published code (orpatashnik/StyleCLIP, optimization/run_optimization.py and criteria), networks
    are not frozen, so that a backward pass adds up gradients of all weights, which nobody uses; and each step
    embeds the text and the first picture's face again. The published code shows CLIP pictures without CLIP's
    normalisation and range. Here they have both, as in our pipeline.

    Args:
        clip: not frozen, the job's own: threads that add up gradients of the same weights may hang.
        generator, identity: float32 state dicts, the job's own.
        hyper: the weights set's.
        prompt: what the face should become.
        codes: w+ of the face, [1, n_latent, style_dim].
        steps: the whole optimisation's, for the ramp of the learning rate.
    """

    def __init__(
        self,
        clip: CLIP,
        generator: StateDict,
        identity: StateDict,
        hyper: StyleCLIPHyperparameters,
        prompt: str,
        codes: Tensor,
        steps: int,
    ) -> None:
        self.clip, self.generator, self.identity, self.hyper = clip, generator, identity, hyper
        self.prompt, self.first, self.steps, self.done = prompt, codes, steps, 0
        self.codes = codes.clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.codes], hyper.learning_rate)
        with torch.no_grad():
            self.first_image = synthesise(generator, codes)
        for weights in (generator, identity):
            for name, tensor in weights.items():
                tensor.requires_grad_(not name.startswith("noises") and "running" not in name)

    def step(self) -> float:
        """One step of the optimisation; returns the loss before it."""
        image = synthesise(self.generator, self.codes)
        embeddings = self.clip.embed_image(self.views((image.clamp(-1, 1) + 1) / 2))
        target = self.clip.embed_text(self.prompt)
        first_features = identity_features(self.identity, self.first_image).detach()
        loss = self.loss(target, embeddings, first_features, identity_features(self.identity, image))
        for group in self.optimiser.param_groups:
            group["lr"] = self.hyper.learning_rate * self.ramp()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.done += 1
        return loss.item()

    def views(self, picture: Tensor) -> Tensor:
        """What CLIP sees of a picture [1, 3, S, S]: the whole, and cutouts if the settings ask for them.

        At 1024 pixels and CLIP's 224 it is enlarged 7 times and averaged over 32 x 32 pixels, as published.
        """
        common = math.lcm(picture.shape[-1], self.clip.side)
        whole = F.interpolate(picture, scale_factor=common / picture.shape[-1], mode="nearest")
        whole = F.avg_pool2d(whole, common // self.clip.side)
        if self.hyper.cutouts == 0:
            return whole
        return torch.cat([whole, cutouts(whole, self.hyper, self.clip.side)])

    def loss(self, target: Tensor, embeddings: Tensor, first_features: Tensor, features: Tensor) -> Tensor:
        """The loss of the present codes.

        Args:
            target: the text's embedding [d].
            embeddings: of the views, [views, d].
            first_features, features: of the first picture's face and of the present one's, [1, d].
        """
        clip_loss = (1 - torch.cosine_similarity(target[None], embeddings)).mean()
        l2_loss = (self.codes - self.first).square().sum()
        identity_loss = 1 - torch.cosine_similarity(first_features, features).mean()
        return clip_loss + self.hyper.l2 * l2_loss + self.hyper.identity * identity_loss

    def ramp(self) -> float:
        """The learning rate's factor: linear up over 5% of the steps, a cosine down over the last 25%."""
        done = self.done / self.steps
        down = min(1.0, (1 - done) / 0.25)
        return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, done / 0.05)
