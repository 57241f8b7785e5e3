"""Frozen networks: weights in the format that they compute in, and convolutions that keep no inputs.

Under autocast, PyTorch casts every weight again in each pass, and a convolution keeps its input for a
gradient of its weights that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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


class Frozen(nn.Module):
    """A convolution whose weights need no gradients.

    On the CPU, the weights are rearranged once for oneDNN, which otherwise does so in every pass.

    Args:
        weight: in the format that it computes in.
        bias: in the same.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.relu = False
        self._backward_weight: Tensor | None = None  # rearranged for the backward pass

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """x [N, C, H, W] -> [N, C', H', W'], with `addend` of this shape added, before any ReLU."""
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        y: Tensor = _Convolution.apply(x, addend, self)
        return y

    def convolve(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """The same for x in the weights' format, channels last, without gradients."""
        raise NotImplementedError

    def gradient(self, grad: Tensor, shape: torch.Size, skipped: Tensor | None = None) -> Tensor:
        """The gradient of x of this shape, for that of the result before a ReLU; `skipped` is added."""
        raise NotImplementedError

    def to_plain(self, weight: Tensor) -> Tensor:
        """Rearranged weights as they were."""
        return weight.to_dense().contiguous(memory_format=torch.channels_last)

    def _keep(self, rearranged: Tensor) -> Tensor:
        """Have rearranged weights take the place of those there are."""
        self.weight = nn.Parameter(rearranged, requires_grad=False)
        return rearranged

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they rearrange the weights themselves, since PyTorch cannot copy rearranged ones."""
        state = {**self.__dict__, "_backward_weight": None}
        if self.weight.is_mkldnn:
            weight = nn.Parameter(self.to_plain(self.weight), requires_grad=False)
            state["_parameters"] = {**self._parameters, "weight": weight}
        return state


class FrozenConv2d(Frozen):
    """A convolution as PyTorch's.

    The backward pass of one without stride is a convolution by the weights rotated by 180 degrees, which
    takes half to three quarters of the time of PyTorch's own.

    Args:
        conv: whose weights it takes over, cast to `dtype`.
        relu: whether a ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__(conv.weight.to(dtype), None if conv.bias is None else conv.bias.to(dtype))
        if isinstance(conv.padding, str):
            raise ValueError(f"padding must be numbers, not {conv.padding!r}")
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.relu = relu
        sides = conv.kernel_size
        self._backward_padding = [side - 1 - pad for side, pad in zip(sides, self.padding, strict=True)]
        self._plain = (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
        self._plain = self._plain and min(self._backward_padding) >= 0
        self._transformed: Tensor | None = None  # as `mead.nn.winograd` needs them, for each pass
        self._backward_transformed: Tensor | None = None
        kind = (self._plain, *sides, *self.padding, relu, dtype)
        self._is_for_winograd = kind == (True, 3, 3, 1, 1, False, torch.float32)

    @classmethod
    def with_norm(
        cls, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool = False
    ) -> FrozenConv2d:
        """A convolution and the batch normalisation after it."""
        return cls(fuse_conv_bn_eval(conv.eval(), norm.eval()), dtype, relu)

    def convolve(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        weight = self.weight  # once, as another thread may rearrange it meanwhile
        if winograd := self._winograd(x, weight.shape[0]):
            if self._transformed is None:
                self._transformed = winograd.transform(self.to_plain(weight))
            return winograd.convolve(x, self._transformed, self.bias, addend)
        if not weight.is_mkldnn:
            if not (self._plain and _for_onednn(x)):
                y = F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
                if addend is not None:
                    y = y.add_(addend)
                return y.relu_() if self.relu else y
            weight = self._keep(_rearranged(weight, self.padding, x.shape))
        return _onednn(x, weight, self.bias, self.padding, 1, addend, self.relu)

    def gradient(self, grad: Tensor, shape: torch.Size, skipped: Tensor | None = None) -> Tensor:
        if winograd := self._winograd(grad, shape[1]):
            grad = grad.contiguous(memory_format=torch.channels_last)
            if self._backward_transformed is None:
                self._backward_transformed = winograd.transform(self._rotated())
            return winograd.convolve(grad, self._backward_transformed, None, skipped)
        if not self.weight.is_mkldnn:
            how = (self.stride, self.padding, self.dilation, self.groups)
            grad_x = conv2d_input(shape, self.weight, grad, *how)
            return grad_x if skipped is None else grad_x.add_(skipped)
        grad = grad.contiguous(memory_format=torch.channels_last)
        weight = self._backward_weight
        if weight is None:
            weight = _rearranged(self._rotated(), self._backward_padding, grad.shape)
            self._backward_weight = weight
        return _onednn(grad, weight, None, self._backward_padding, 1, skipped)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_transformed": None, "_backward_transformed": None}

    def _winograd(self, x: Tensor, channels_out: int) -> Any:
        """The module that convolves x faster, if it does; imported here, as Numba takes 110 MB."""
        if not self._is_for_winograd:
            return None
        from mead.nn import winograd

        return winograd if winograd.is_faster(x, channels_out) else None

    def _rotated(self) -> Tensor:
        """The weights of the backward pass."""
        return self.to_plain(self.weight).flip(2, 3).transpose(0, 1)


class FrozenUpsample(Frozen):
    """Doubling the sides and a 3x3 convolution after it, in 4/9 of the multiplications.

    Of the nine pixels under the convolution only four differ. With the weights that fall on the same pixel
    summed, it is a transposed convolution of stride 2, and its backward pass a convolution of stride 2.

    Args:
        conv: whose weights are summed, and cast to `dtype` then.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        weight = conv.weight.detach().to(torch.promote_types(conv.weight.dtype, torch.float32))
        weight = weight.flip(2, 3).transpose(0, 1)
        sums = F.pad(weight, (1, 0, 1, 0)) + F.pad(weight, (0, 1, 1, 0))
        sums = sums + F.pad(weight, (1, 0, 0, 1)) + F.pad(weight, (0, 1, 0, 1))
        super().__init__(sums.to(dtype), None if conv.bias is None else conv.bias.to(dtype))

    def convolve(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        weight = self.weight
        # padding, that of the output, stride, dilation, groups
        how: Any = ([1, 1], [0, 0], [2, 2], [1, 1], 1)
        if not weight.is_mkldnn:
            if not _for_onednn(x):
                y = F.conv_transpose2d(x, weight, self.bias, 2, 1)
                return y if addend is None else y.add_(addend)
            rearrange = torch.ops.mkldnn._reorder_convolution_transpose_weight
            weight = self._keep(rearrange(weight, *how, list(x.shape)))
        y = torch.ops.mkldnn._convolution_transpose_pointwise(x, weight, self.bias, *how, "none", [], "")
        return y if addend is None else y.add_(addend)

    def gradient(self, grad: Tensor, shape: torch.Size, skipped: Tensor | None = None) -> Tensor:
        if not self.weight.is_mkldnn:
            grad_x = F.conv2d(grad, self.weight, None, 2, 1)
            return grad_x if skipped is None else grad_x.add_(skipped)
        grad = grad.contiguous(memory_format=torch.channels_last)
        weight = self._backward_weight
        if weight is None:
            weight = self._backward_weight = _rearranged(self.to_plain(self.weight), (1, 1), grad.shape, 2)
        return _onednn(grad, weight, None, (1, 1), 2, skipped)

    def to_plain(self, weight: Tensor) -> Tensor:
        return super().to_plain(weight).transpose(0, 1)


def convolve_and_add(conv: nn.Module, x: Tensor, addend: Tensor) -> Tensor:
    """conv(x) + addend, in one operation if the convolution is frozen."""
    y: Tensor = conv(x, addend) if isinstance(conv, Frozen) else conv(x) + addend
    return y


def before_relu(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of what is before a ReLU, for that of its result y [N, C, H, W], channels last."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    before: Tensor = torch.ops.aten.threshold_backward(grad, y, 0)
    return before


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, addend: Tensor | None, conv: Frozen) -> Tensor:
        y = conv.convolve(x, addend)
        ctx.conv, ctx.shape = conv, x.shape
        if conv.relu:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.conv.relu:
            grad = before_relu(grad, *ctx.saved_tensors)
        grad_x = ctx.conv.gradient(grad, ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad if ctx.needs_input_grad[1] else None, None


@lru_cache
def _formats() -> tuple[torch.dtype, ...]:
    """The number formats that oneDNN computes in on this processor."""
    if not torch.backends.mkldnn.is_available():
        return ()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


def _for_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _formats()


def _rearranged(weight: Tensor, padding: Sequence[int], shape: Sequence[int], stride: int = 1) -> Tensor:
    """Weights [out, in, h, w] in the layout that oneDNN likes best for features of this shape."""
    rearrange: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    weight = weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
    rearranged: Tensor = rearrange(weight, list(padding), [stride] * 2, [1, 1], 1, list(shape))
    return rearranged


def _onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: int = 1,
    addend: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve by rearranged weights; add, and apply a ReLU, before the result is rounded."""
    how = (padding, (stride, stride), (1, 1), 1)
    convolve = torch.ops.mkldnn._convolution_pointwise
    y: Tensor
    if addend is None:
        y = convolve.default(x, weight, bias, *how, "relu" if relu else "none", [], "")
    else:
        addend = addend.contiguous(memory_format=torch.channels_last)
        y = convolve.binary(x, addend, weight, bias, *how, "add", 1, "relu" if relu else None, [], "")
    return y
