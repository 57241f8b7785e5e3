"""Frozen networks: weights in the format that they compute in, and convolutions that keep no inputs.

Under autocast, PyTorch casts every weight again in each pass, and a convolution keeps its input for a
gradient of its weights that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def freeze(network: Network, dtype: torch.dtype) -> Network:
    """Freeze a network in place, whose convolutions and linear layers compute in `dtype` from now on.

    Normalisations and other parameters stay as they are: PyTorch takes them in float32 beside features of any
    format, and so nothing is rounded that is not rounded under autocast.
    """
    network.requires_grad_(False).eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d:
                setattr(module, name, FrozenConv2d(child, dtype))
            elif type(child) in (nn.Linear, nn.Conv1d):
                child.to(dtype)
    return network


class FrozenConv2d(nn.Module):
    """A convolution whose weights need no gradients.

    On the CPU, the weights are rearranged once for oneDNN, which otherwise does so in every pass. The
    backward pass of a convolution without stride is a convolution by the weights rotated by 180 degrees,
    which takes half to three quarters of the time of PyTorch's own.

    Args:
        conv: whose weights it takes over, cast to `dtype`.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = (
            None if conv.bias is None else nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        )
        if isinstance(conv.padding, str):
            raise ValueError(f"padding must be numbers, not {conv.padding!r}")
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.relu = relu
        self._rotated: Tensor | None = None

    @classmethod
    def with_norm(
        cls, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool = False
    ) -> FrozenConv2d:
        """A convolution and the batch normalisation after it."""
        return cls(fuse_conv_bn_eval(conv.eval(), norm.eval()), dtype, relu)

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """x [N, C, H, W] -> [N, C', H', W'], with `addend` of this shape added before the ReLU."""
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        y: Tensor = _Convolution.apply(x, addend, self)
        return y

    def convolve(self, x: Tensor, addend: Tensor | None) -> Tensor:
        """The same, without gradients."""
        if not self._for_onednn(x):
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
            if addend is not None:
                y = y.add_(addend)
            return y.relu_() if self.relu else y
        if not self.weight.is_mkldnn:
            self.weight = nn.Parameter(_rearranged(self.weight, self.padding, x.shape), requires_grad=False)
        return _onednn(x, self.weight, self.bias, self.padding, addend, self.relu)

    def gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of x of this shape, for that of the sum of the convolution and the addend."""
        if not self.weight.is_mkldnn:
            return conv2d_input(
                shape, self.weight, grad, self.stride, self.padding, self.dilation, self.groups
            )
        grad = grad.contiguous(memory_format=torch.channels_last)
        padding = [side - 1 - pad for side, pad in zip(self.weight.shape[2:], self.padding, strict=True)]
        if self._rotated is None:
            rotated = self.weight.to_dense().flip(2, 3).transpose(0, 1)
            self._rotated = _rearranged(
                rotated.contiguous(memory_format=torch.channels_last), padding, grad.shape
            )
        return _onednn(grad, self._rotated, None, padding)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they rearrange the weights themselves, since PyTorch cannot copy rearranged ones."""
        state = {**self.__dict__, "_rotated": None}
        if self.weight.is_mkldnn:
            weight = self.weight.to_dense().contiguous(memory_format=torch.channels_last)
            state["_parameters"] = {**self._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
        return state

    def _for_onednn(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False
        if x.dtype != torch.float32 and not (x.dtype == torch.bfloat16 and _onednn_has_bfloat16()):
            return False
        plain = (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
        return plain and all(
            pad < side for pad, side in zip(self.padding, self.weight.shape[2:], strict=True)
        )


def convolve_and_add(conv: nn.Module, x: Tensor, addend: Tensor) -> Tensor:
    """conv(x) + addend, in one operation if the convolution is frozen."""
    y: Tensor = conv(x, addend) if isinstance(conv, FrozenConv2d) else conv(x) + addend
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, addend: Tensor | None, conv: FrozenConv2d) -> Tensor:
        y = conv.convolve(x, addend)
        ctx.conv, ctx.shape = conv, x.shape
        if conv.relu:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.conv.relu:
            (y,) = ctx.saved_tensors
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        grad_x = ctx.conv.gradient(grad, ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad if ctx.needs_input_grad[1] else None, None


def _onednn_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _rearranged(weight: Tensor, padding: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Weights [out, in, h, w] in the layout that oneDNN likes best for features of this shape."""
    rearrange: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    rearranged: Tensor = rearrange(weight.to_mkldnn(), list(padding), [1, 1], [1, 1], 1, list(shape))
    return rearranged


def _onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    addend: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve by rearranged weights; add, and apply a ReLU, before the result is rounded."""
    how = (padding, (1, 1), (1, 1), 1)
    convolve = torch.ops.mkldnn._convolution_pointwise
    y: Tensor
    if addend is None:
        y = convolve(x, weight, bias, *how, "relu" if relu else "none", [], "")
    else:
        addend = addend.contiguous(memory_format=torch.channels_last)
        y = convolve.binary(x, addend, weight, bias, *how, "add", 1, "relu" if relu else None, [], "")
    return y
