"""FLOP formulas of all ops that multiply and add: one table, op name -> formula.

Convention: 2 x MAC, executed, zero padding included, attention counted full. A complex MAC is four
real ones; torch splits a complex convolution into three real ones, which are what is counted. Bias,
activation and normalisation are no MACs and appear in the ledger's elementwise column instead.

A formula reads one `Call` and returns FLOPs, a `Cost` where causal masking makes a second number,
or None where the arguments do not determine the cost (the ledger then flags the op). Arguments are
read by their schema names, so that an argument added by a later torch shifts no position.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod

from torch import Tensor

from bench.meters.flops.call import Call, Cost
from bench.meters.flops.formulas import attention, pairwise, sparse

Formula = Callable[[Call], int | Cost | None]

# Names are those that the dispatcher reports, after composite ops were taken apart.
# left [..., M, K] @ right [..., K, N], by argument names; right may be a vector [K]
PRODUCTS = {
    "aten::mm": ("self", "mat2"),
    "aten::bmm": ("self", "mat2"),
    "aten::addmm": ("mat1", "mat2"),
    "aten::_addmm_activation": ("mat1", "mat2"),
    "aten::baddbmm": ("batch1", "batch2"),
    "aten::addbmm": ("batch1", "batch2"),
    "aten::mv": ("self", "vec"),
    "aten::addmv": ("mat", "vec"),
    "aten::dot": ("self", "tensor"),
    "aten::vdot": ("self", "other"),
    "aten::_int_mm": ("self", "mat2"),
    "aten::_scaled_mm": ("self", "mat2"),
    "aten::_scaled_mm_v2": ("self", "mat2"),
    "aten::_scaled_addmm": ("mat1", "mat2"),
    "aten::_sparse_addmm": ("mat1", "mat2"),
    "aten::_sparse_sparse_matmul": ("self", "other"),
    "aten::_sparse_mm_reduce_impl": ("self", "other"),
    "aten::hspmm": ("mat1", "mat2"),
    "aten::sspaddmm": ("mat1", "mat2"),
}

# rows [..., K] times a packed weight, whose shape does not hold N: it is read from the output
PACKED_LINEARS = (
    "aten::_weight_int8pack_mm",
    "aten::_weight_int4pack_mm",
    "aten::_weight_int4pack_mm_for_cpu",
    "aten::_dyn_quant_matmul_4bit",
    "aten::_mixed_dtypes_linear",
    "quantized::linear",
    "quantized::linear_relu",
    "quantized::linear_dynamic",
    "quantized::linear_relu_dynamic",
    "quantized::linear_dynamic_fp16",
)

# The first is what a mode normally sees; the others are single backends, or called directly.
CONVOLUTIONS = (
    "aten::convolution",
    "aten::_convolution",
    "aten::convolution_overrideable",
    "aten::mkldnn_convolution",
    "aten::cudnn_convolution",
    "aten::cudnn_convolution_relu",
    "aten::cudnn_convolution_add_relu",
    "aten::cudnn_convolution_transpose",
    "aten::miopen_convolution",
    "aten::miopen_depthwise_convolution",
    "aten::miopen_convolution_transpose",
    "aten::_slow_conv2d_forward",
    "aten::_conv_depthwise2d",
    "aten::conv_depthwise3d",
    "aten::slow_conv3d_forward",
    "aten::slow_conv_dilated2d",
    "aten::slow_conv_dilated3d",
    "aten::slow_conv_transpose2d",
    "aten::slow_conv_transpose3d",
)

# Sums of embedding rows; with per-sample weights they multiply (`sparse.weighted_bag`).
BAGS = (
    "aten::_embedding_bag",
    "aten::_embedding_bag_forward_only",
    "aten::_embedding_bag_backward",
    "aten::_embedding_bag_dense_backward",
)


def product(call: Call, *, left: str, right: str) -> int | None:
    """left @ right: every stored element of the left is multiplied with every column."""
    return sparse.matmul(call[left], call[right])


def products(call: Call) -> int | None:
    """One product per pair of two lists of matrices."""
    pairs = zip(call.first, call.second, strict=True)
    each = [sparse.matmul(left, right) for left, right in pairs]
    return None if None in each else sum(flops or 0 for flops in each)


def outer(call: Call) -> int:
    """A matrix plus the outer product of two vectors."""
    return sparse.flops_per_mac(call["vec1"]) * call["vec1"].numel() * call["vec2"].numel()


def linear(call: Call) -> int:
    """Rows [..., K] times weight [N, K], dense or sparse."""
    rows, weight = call.first, call["weight"]
    num_rows = rows.numel() // rows.size(-1) if rows.size(-1) else 0
    return num_rows * sparse.flops_per_mac(rows) * sparse.num_stored(weight)


def packed_linear(call: Call) -> int:
    """Rows [..., K] times a packed weight, giving [..., N]."""
    return 2 * call.first.numel() * call.result.size(-1)


def convolution(call: Call) -> int:
    """Each output element sums one kernel; transposed: each input element scatters one.

    weight [out, in / groups, *kernel], transposed [in, out / groups, *kernel]: groups are already
    in the shape.
    """
    # The general op has a flag; backend ops have a name of their own for the transposed form.
    transposed = call.get("transposed", "transpose" in call.op)
    return _kernels((call.first if transposed else call.result), call["weight"].shape[1:])


def convolution_backward(call: Call) -> int:
    """The gradients of input and weight each cost as much as the forward pass."""
    spread = call["input"] if call["transposed"] else call["grad_output"]
    # output_mask: whether the gradients of input, weight and bias are wanted; bias is a sum.
    return sum(call["output_mask"][:2]) * _kernels(spread, call["weight"].shape[1:])


def _kernels(elements: Tensor, kernel: Sequence[int]) -> int:
    return sparse.flops_per_mac(elements) * elements.numel() * prod(kernel)


def conv_tbc(call: Call) -> int:
    """Output [T, B, out], weight [kernel, in, out]."""
    return _kernels(call.result, call["weight"].shape[:2])


def affine_grid(call: Call) -> int:
    """Every point [x, y, 1] of a grid times its sample's matrix theta [N, 2, 3]; 3-D [N, 3, 4].

    torch computes it as a batched product. cuDNN's own op has the sizes as single arguments, and
    planes only.
    """
    theta = call["theta"]
    size = call.get("size") or [call["N"], call["C"], call["H"], call["W"]]
    return 2 * theta.numel() * prod(size[2:])


def affine_grid_backward(call: Call) -> int:
    """The gradient of theta [N, 2, 3]: every point of the grid times its gradient [..., 2]."""
    grad = call.first  # [N, H, W, 2]
    return 2 * grad.numel() * (grad.shape[-1] + 1)


def grouped_mm(call: Call) -> int:
    """One product per group, by the actual offsets: rows behind the last one are not computed.

    [M, K] x [G, K, N] and [G, M, K] x [K, N] and [M, K] x [K, N] split M, N and K; without
    offsets [G, M, K] x [G, K, N].
    """
    left, right, offsets = call.first, call.second, call.get("offs")
    if offsets is None:
        return 2 * left.numel() * right.shape[-1]
    # Reading the offset synchronises a GPU, which a count may do: it is never timed.
    spanned = int(offsets[-1]) if offsets.numel() else 0
    if left.dim() == right.dim():  # K is split
        return 2 * spanned * left.shape[0] * right.shape[1]
    kept = right.shape[-2] * right.shape[-1] if left.dim() == 2 else left.shape[-2] * left.shape[-1]
    return 2 * spanned * kept


def rnn_mkldnn(call: Call, *, weights: tuple[str, str], passes: int) -> int:
    """One layer, one direction: input and recurrent weights at every step.

    `passes`: 1 forward; 2 backward, for the gradients of input and weights.
    """
    steps = call["input"].numel() // call["input"].shape[-1]
    return 2 * passes * steps * sum(call[name].numel() for name in weights)


def rnn_cudnn(call: Call, *, backward: bool) -> int:
    """All layers and directions: every weight matrix at every step; biases are vectors."""
    steps = call["input"].numel() // call["input"].shape[-1]
    matrices = sum(weight.numel() for weight in call["weight"] if weight.dim() == 2)
    # output_mask[3]: whether gradients of the weights are wanted.
    passes = 1 + bool(call["output_mask"][3]) if backward else 1
    return 2 * passes * steps * matrices


FORMULAS: Mapping[str, Formula] = {
    **{op: partial(product, left=left, right=right) for op, (left, right) in PRODUCTS.items()},
    "aten::_foreach_mm": products,
    **dict.fromkeys(("aten::linear", "aten::mkldnn_linear"), linear),
    **dict.fromkeys(PACKED_LINEARS, packed_linear),
    **dict.fromkeys(CONVOLUTIONS, convolution),
    "aten::convolution_backward": convolution_backward,
    "aten::convolution_backward_overrideable": convolution_backward,
    "aten::conv_tbc": conv_tbc,
    "aten::affine_grid_generator": affine_grid,
    "aten::cudnn_affine_grid_generator": affine_grid,
    "aten::cudnn_affine_grid_generator_backward": affine_grid_backward,
    "aten::_grouped_mm": grouped_mm,
    "aten::_scaled_grouped_mm": grouped_mm,
    # Hugging Face transformers registers its own grouped product where torch has no kernel.
    "transformers::grouped_mm_fallback": grouped_mm,
    "transformers::grouped_mm_fallback_backward": lambda call: 2 * grouped_mm(call),
    "aten::mkldnn_rnn_layer": partial(rnn_mkldnn, weights=("weight0", "weight1"), passes=1),
    "aten::mkldnn_rnn_layer_backward": partial(
        rnn_mkldnn, weights=("weight1", "weight2"), passes=2
    ),
    "aten::_cudnn_rnn": partial(rnn_cudnn, backward=False),
    "aten::_cudnn_rnn_backward": partial(rnn_cudnn, backward=True),
    "aten::_trilinear": pairwise.trilinear,
    "aten::_euclidean_dist": partial(pairwise.distances, num_norms=2),
    "aten::_cdist_forward": pairwise.distances,
    "aten::_cdist_backward": pairwise.distances,
    "aten::_pdist_forward": pairwise.pair_distances,
    "aten::addr": outer,
    "aten::sparse_sampled_addmm": sparse.sampled_product,
    **dict.fromkeys(BAGS, sparse.weighted_bag),
    "aten::_embedding_bag_per_sample_weights_backward": sparse.bag_products,
    **attention.FORMULAS,
}


def version() -> str:
    """A hash of the formulas' source, for provenance: equal hashes, equal arithmetic."""
    modules = (sys.modules[__name__], attention, pairwise, sparse)
    source = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(source.encode()).hexdigest()[:12]
