"""What a weights set may say of StyleCLIP; the caching server reads it too, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a weights set says of this model; the defaults are the published values."""

    iterations: int = 50
    start: str = "inversion"
    learning_rate: float = 0.1
    learned_start_rate: float = 0.1  # the learning rate from a learned start, which has less far to go
    l2: float = 0.008
    identity: float = 0.005
    cutouts: int = 0  # random crops CLIP sees in a step beside the whole picture
    face_needed: bool = True  # whether a picture without a face is an error, or is then used whole
    framed_within: float = 0.0  # a picture no further off FFHQ's frame than this is used whole (`off_frame`)
