"""One batch on several processes: what a layer or a loss has to see of the images that the others hold.

Every process of the group (`torch.distributed`) has an equal share of the batch, in the order of the ranks, and
computes the whole loss L of the gathered outputs. Each function here has the exact adjoint of its forward pass under
"the sum over the processes of what they compute", which is N L; so the mean over the processes of a parameter's
gradients, which `DistributedDataParallel` takes, is the gradient of L.

Legend: b images of this process, N processes, B = N b images of the batch, C channels.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reidablate.errors import UserError


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The adjoint of handing a part to all processes is the sum of the gradients that all have for it. They compute
        # the same loss of the same tensors, so these are N times ours, and nothing has to be sent.
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A part enters the sum of every process, so its gradient is the sum over the processes of theirs.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def gathered(outputs: Any) -> Any:
    """Returns what a network made of b images as it would have made of all B: each tensor (b, ...) as (B, ...).

    Args:
        outputs: A tensor, None, or a dataclass, mapping, list or tuple of such.
    """
    if isinstance(outputs, Tensor):
        return _Gather.apply(outputs)
    if is_dataclass(outputs) and not isinstance(outputs, type):
        return replace(outputs, **{field.name: gathered(getattr(outputs, field.name)) for field in fields(outputs)})
    if isinstance(outputs, dict):
        return {name: gathered(part) for name, part in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(map(gathered, outputs))
    return outputs


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation by the mean and variance of all B images, on any device.

    `torch.nn.SyncBatchNorm` does the same on GPUs alone. Parameters, buffers and their names are those of the layer
    that it replaces.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # (b, C) and (b, C, H, W) alike

    def forward(self, input: Tensor) -> Tensor:
        """Returns `input`, (b, C, ...), normalised."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _total(x.sum(others)) / count
        # In two passes: the mean square minus the squared mean would cancel where the mean is large.
        centred = x - mean.view(shape)
        variance = _total(centred.square().sum(others)) / count
        # As in PyTorch, a batch is normalised by the biased variance and the unbiased one is kept for testing.
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _total(part: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(part))


class GlobalDropPath(DropPath):  # type: ignore[misc]  # timm has no types
    """Drop path that draws for all B images, as one process would, and applies the part of its own b."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x`, (b, ...), each sample dropped or scaled."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        # Every process has the same random state at a step, so all draw the same B numbers.
        drawn = x.new_empty(len(x) * dist.get_world_size(), *[1] * (x.dim() - 1)).bernoulli_(keep)
        if keep > 0.0 and self.scale_by_keep:
            drawn.div_(keep)
        return x * drawn.chunk(dist.get_world_size())[dist.get_rank()]


def see_global_batch(network: nn.Module, *, known: tuple[type[nn.Module], ...] = ()) -> None:
    """Replaces, in place, every batch normalisation and drop path of a network by one that knows the whole batch.

    Args:
        network: Any.
        known: Classes that do as their base, `BatchNorm1d` or `BatchNorm2d`, does.

    Raises:
        UserError: A layer derives from batch normalisation and does something else besides.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, *known)
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, GlobalDropPath(child.drop_prob, child.scale_by_keep))
            elif type(child) in plain:
                setattr(module, name, _global_norm(cast(_BatchNorm, child)))
            elif isinstance(child, _BatchNorm):
                raise UserError(
                    f"a {type(child).__name__} of the network normalises by the images of one process, which would "
                    "change the batch; train this backbone with execution.gpu: 1."
                )


def _global_norm(norm: _BatchNorm) -> GlobalBatchNorm:
    made = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    return made.train(norm.training)
