"""FLOPs of fused attention: forward two products per query-key pair, backward five.

Letters: B batch, H heads, S queries, L keys, E query and key width, V value width, D model width.
The backward pass of every fused kernel recomputes Q K^T (Dao et al. 2022, FlashAttention).
Grouped queries cost what full heads cost: every query head meets every key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from bench.meters.flops.call import Call, Cost

# Kernels behind `scaled_dot_product_attention`, which share one argument layout.
_SDPA = (
    "flash_attention_for_cpu",
    "flash_attention",
    "efficient_attention",
    "cudnn_attention",
    "fused_attention_overrideable",
)
# Kernels below those, [B, S, H, E] or packed [tokens, H, E]; called directly by other libraries.
_PACKED = ("flash_attention", "efficient_attention")
# Arguments under which shapes alone do not give the number of pairs (sliding window, paged keys).
_OPEN = (
    "window_size_left",
    "window_size_right",
    "window_size",
    "seqused_k",
    "seqlen_k",
    "block_table",
)
_CAUSAL_WINDOWS = ([-1, 0], (-1, 0))  # all earlier keys, no later one
_TOP_LEFT = 1  # custom_mask_type of the efficient kernel
_OFFSETS = ("cum_seq_", "cu_seqlens_", "cu_seq_")  # + "q" or "k": where each sequence begins


def sdpa(call: Call, *, backward: bool = False) -> Cost | None:
    """query [B, H, S, E], key [B, H, L, E], value [B, H, L, V]; causal is aligned top left."""
    query, key, value = call["query"], call["key"], call["value"]
    if query.is_nested or key.is_nested:
        return None
    per_pair = _per_pair(query.shape[-1], value.shape[-1], backward)
    heads = query.shape[:-2].numel()  # of queries: with grouped queries there are fewer key heads
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    full = heads * num_queries * num_keys * per_pair
    # A dense mask tensor skips nothing in these kernels; only `is_causal` makes a second number.
    if not call.get("is_causal", False):
        return Cost(full, full)
    return Cost(full, heads * causal_pairs(num_queries, num_keys) * per_pair)


def packed(call: Call, *, backward: bool = False) -> Cost | None:
    """query [B, S, H, E], or [tokens, H, E] with each sequence's offsets.

    Causal is aligned bottom right, unless the mask type is top left. None with a sliding window,
    paged or partly used keys: the shapes do not show how much of them runs.
    """
    query, value = call["query"], call["value"]
    queries, keys = _lengths(call, "q", query), _lengths(call, "k", call["key"])
    causal = call.get("window_size") in _CAUSAL_WINDOWS
    if queries is None or keys is None or (not causal and any(_given(call, n) for n in _OPEN)):
        return None
    per_pair = query.shape[-2] * _per_pair(query.shape[-1], value.shape[-1], backward)
    sizes = list(zip(queries, keys, strict=True))
    full = per_pair * sum(s * n for s, n in sizes)
    mask_type = call.get("custom_mask_type", 0)
    if not (causal or call.get("is_causal", False) or mask_type):
        return Cost(full, full)
    # The alignments differ only where a sequence has more keys than queries (cached decoding).
    bottom_right = mask_type != _TOP_LEFT
    left = sum(causal_pairs(s, n, bottom_right=bottom_right) for s, n in sizes)
    return Cost(full, per_pair * left)


def _given(call: Call, name: str) -> bool:
    """Whether an optional argument is in force; -1 is torch's "no window"."""
    value = call.get(name)
    # `window_size` is a pair, the others are scalars or tensors.
    parts = value if isinstance(value, (list, tuple)) else [value]
    return any(p is not None and not (isinstance(p, int) and p < 0) for p in parts)


def _lengths(call: Call, side: str, tensor: Tensor) -> list[int] | None:
    """Each sequence's length, from the offsets where they are given."""
    for prefix in _OFFSETS:
        offsets = call.get(prefix + side)
        if offsets is not None and offsets.numel():
            return offsets.diff().tolist()  # [B + 1] offsets -> [B] lengths
    return [tensor.shape[1]] * tensor.shape[0] if tensor.dim() == 4 else None


def _per_pair(width: int, value_width: int, backward: bool) -> int:
    """FLOPs of one query-key pair of one head: Q K^T and P V; or those of their gradients."""
    return 2 * (3 * width + 2 * value_width if backward else width + value_width)


def causal_pairs(num_queries: int, num_keys: int, *, bottom_right: bool = False) -> int:
    """Number of (query i, key j) pairs that a causal mask leaves: j <= i, or j - L <= i - S."""
    if num_queries > num_keys:
        # The queries beyond a square see every key if aligned top left, none if bottom right.
        square = num_keys * (num_keys + 1) // 2
        return square if bottom_right else square + (num_queries - num_keys) * num_keys
    square = num_queries * (num_queries + 1) // 2
    return square + num_queries * (num_keys - num_queries) * bottom_right


def multi_head(call: Call) -> int | None:
    """The fused nn.MultiheadAttention: four projections of width D and the attention between."""
    query, key = call["query"], call["key"]
    pairs = _pairs(query, key)
    if pairs is None:
        return None
    dim = call["embed_dim"]
    tokens, keys = query.numel() // dim, key.numel() // dim
    # Query and output projections run over queries, key and value projections over keys.
    return 2 * dim * dim * (2 * tokens + 2 * keys) + 4 * dim * pairs


def encoder_layer(call: Call) -> int | None:
    """The fused nn.TransformerEncoderLayer: multi-head attention and the feed-forward layer."""
    src, dim = call["src"], call["embed_dim"]
    pairs = _pairs(src, src)
    if pairs is None:
        return None
    hidden = call["ffn_weight_1"].numel() + call["ffn_weight_2"].numel()
    return 2 * (src.numel() // dim) * (4 * dim * dim + hidden) + 4 * dim * pairs


def _pairs(query: Tensor, key: Tensor) -> int | None:
    """Query-key pairs of all samples; None where they cannot be derived from the arguments.

    On a CPU nested samples are padded to the longest one here, though not in their linear layers.
    The kernel that a GPU chooses for nested samples does not show in the call.
    """
    if not query.is_nested:
        return query.shape[0] * query.shape[1] * key.shape[1]
    if query.device.type != "cpu":
        return None
    lengths = query._nested_tensor_size()[:, 0]
    return int(len(lengths) * lengths.max() ** 2)


FORMULAS: Mapping[str, Callable[[Call], int | Cost | None]] = {
    **{f"aten::_scaled_dot_product_{name}": sdpa for name in _SDPA},
    **{
        f"aten::_scaled_dot_product_{name}_backward": partial(sdpa, backward=True) for name in _SDPA
    },
    "aten::_scaled_dot_product_attention_math_for_mps": sdpa,
    **{f"aten::_{name}_forward": packed for name in _PACKED},
    **{f"aten::_{name}_backward": partial(packed, backward=True) for name in _PACKED},
    "aten::_flash_attention_forward_no_dropout_inplace": packed,
    "torch_attn::_varlen_attn": packed,
    "torch_attn::_varlen_attn_out": packed,
    "torch_attn::_varlen_attn_backward": partial(packed, backward=True),
    "aten::_native_multi_head_attention": multi_head,
    "aten::_triton_multi_head_attention": multi_head,
    "aten::_transformer_encoder_layer_fwd": encoder_layer,
}
