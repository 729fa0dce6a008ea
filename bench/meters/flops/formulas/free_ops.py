"""Ops declared free of FLOPs: they move, compare, reduce or normalise, and multiply no matrices.

Nothing is zero by default: an op that is neither here, nor pointwise, nor a view, nor in the table
of formulas is reported as an op without a formula. Names are stems: one entry covers the in-place,
out, copy and backward forms of its op. `NO_WORK` touches no data either; `GATHERS` read only what
they return.
"""

from __future__ import annotations

# metadata, checks and allocations: no element is read or written
_NO_WORK = """
    _assert_async _assert_scalar _assert_tensor_metadata _coalesced _debug_has_internal_overlap
    _dimI _dimV _efficientzerotensor _functional_assert_async _functional_assert_scalar
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size _fused_sdp_choice
    _has_compatible_shallow_copy_type _has_same_storage_numel _is_all_true _is_any_true
    _lazy_clone _linalg_check_errors _local_scalar_dense _make_dep_token
    _nested_compute_contiguous_strides_offsets _nested_get_jagged_dummy _nested_get_lengths
    _nested_get_max_seqlen _nested_get_min_seqlen _nested_get_offsets _nested_get_ragged_idx
    _nested_get_values _nested_tensor_size _nested_tensor_storage_offsets _nested_tensor_strides
    _nested_view_from_buffer _nested_view_from_jagged _nnz _print _reshape_alias _resize_output
    _sparse_compressed_tensor_unsafe _sparse_compressed_tensor_with_dims
    _sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _unsafe_view
    _use_cudnn_ctc_loss _use_miopen_ctc_loss _validate_compressed_sparse_indices
    _validate_sparse_coo_tensor_args _version as_strided ccol_indices col_indices crow_indices
    dense_dim detach empty empty_like empty_permuted empty_quantized empty_strided indices
    is_coalesced is_pinned is_same_size is_set_to item lift lift_fresh new_empty
    new_empty_strided numel q_per_channel_axis q_per_channel_scales q_per_channel_zero_points
    q_scale q_zero_point qscheme record_stream resize resize_as resize_as_sparse retain_grad
    row_indices set set_data shallow_copy_data size sparse_compressed_tensor sparse_coo_tensor
    sparse_dim sparse_resize sparse_resize_and_clear squeeze storage_offset stride
    sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
    sym_storage_offset sym_stride t transpose unsafe_split unsafe_split_with_sizes unsqueeze
    values
"""

# memory is reserved, and nothing is written to it
_ALLOCATES = """
    empty empty_like empty_permuted empty_strided new_empty new_empty_strided
"""

# the table or source is not read as a whole, so its size must not enter `bytes_touched`
_GATHERS = """
    _embedding_bag _embedding_bag_forward_only _unsafe_index _unsafe_masked_index embedding
    gather index index_select masked_select take
"""

# copies, fills, layouts, padding, indexing
_MOVES = """
    _chunk_cat _conj_physical _copy_from _copy_from_and_resize _cudnn_rnn_flatten_weight
    _fill_mem_eff_dropout_mask _index_put_impl _jagged_to_padded_dense _mkldnn_reshape
    _mkldnn_transpose _nested_from_padded _nested_from_padded_and_nested_example
    _nested_from_padded_tensor _nested_select _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _nested_tensor_from_tensor_list
    _new_zeros_with_same_feature_meta _pack_padded_sequence _padded_dense_to_jagged _pin_memory
    _reshape _stack _to_copy _unsafe_index_put _unsafe_masked_index_put_accumulate
    arange as_strided_scatter bartlett_window blackman_window block_diag
    cat channel_shuffle clone col2im complex constant_pad_nd copy copy_sparse_to_sparse
    diag_embed diagonal diagonal_scatter embedding_renorm eye
    fft_fftfreq fft_rfftfreq fill flip from_file full full_like hamming_window hann_window
    im2col index_copy index_fill index_put kaiser_window linspace logspace lu_unpack masked_fill
    masked_scatter mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight narrow new_full
    new_ones new_zeros nonzero nonzero_static ones ones_like pixel_shuffle pixel_unshuffle polar
    put range reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d roll rot90 scalar_tensor scatter
    select select_scatter slice slice_scatter split split_with_sizes stack to_mkldnn
    to_padded_tensor tril tril_indices triu triu_indices unbind unfold where zero zeros
    zeros_like
"""

# sums, extrema, sorting, counting, norms
_REDUCTIONS = """
    _aminmax _cummax_helper _cummin_helper _histogramdd_bin_edges _histogramdd_from_bin_cts
    _histogramdd_from_bin_tensors _logcumsumexp _nested_sum _segment_reduce _sparse_csr_prod
    _sparse_csr_sum _sparse_sum _unique _unique2 all allclose amax amin aminmax any argmax
    argmin argsort bincount bucketize count_nonzero cummax cummin cumprod cumsum dist
    embedding_dense equal hash_tensor histc histogram index_add index_reduce isin kthvalue
    linalg__powsum linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmedian
    nansum native_norm norm powsum prod renorm scatter_add scatter_reduce searchsorted
    segment_reduce sort std std_mean sum topk trace unique_consecutive unique_dim
    unique_dim_consecutive var var_mean
"""

# a few operations per element; their elementwise part is not separable from their reductions
_NORMALISATION = """
    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _log_softmax _masked_softmax
    _native_batch_norm_legit _native_batch_norm_legit_no_training
    _nested_tensor_softmax_with_shape _safe_softmax _softmax _sparse_log_softmax _sparse_softmax
    _weight_norm_interface batch_norm batch_norm_backward_elemt batch_norm_backward_reduce
    batch_norm_elemt batch_norm_gather_stats batch_norm_gather_stats_with_counts
    batch_norm_stats batch_norm_update_stats cudnn_batch_norm log_softmax miopen_batch_norm
    native_batch_norm native_group_norm native_layer_norm quantized_batch_norm softmax
"""

# fixed stencils: interpolation weights are no learned products
_POOLING_AND_RESAMPLING = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _grid_sampler_2d_cpu_fallback
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d cudnn_grid_sampler
    fractional_max_pool2d fractional_max_pool3d grid_sampler_2d grid_sampler_3d max_pool2d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d quantized_max_pool1d
    quantized_max_pool2d quantized_max_pool3d upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d
"""

_RANDOM = """
    _cudnn_init_dropout_state _dirichlet_grad _fused_dropout _philox_key_fold_in
    _philox_key_split _philox_normal _philox_randint _philox_uniform _sample_dirichlet
    _standard_gamma _standard_gamma_grad bernoulli binomial cauchy exponential geometric
    log_normal multinomial native_dropout normal poisson rand rand_like randint randint_like
    randn randn_like random randperm rrelu_with_noise uniform
"""

# element by element, though torch does not tag them so (or not in every release)
_ELEMENTWISE = """
    __irshift__ _add_relu _amp_update_scale _masked_scale _prelu_kernel _thnn_fused_gru_cell
    _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl _transform_bias_rescale_qkv
    binary_cross_entropy binary_cross_entropy_with_logits celu elu floor_divide gelu
    gelu_backward glu glu_backward_jvp glu_jvp hardshrink hardsigmoid hardswish hardtanh
    huber_loss isinf isnan leaky_relu linalg_cross log_sigmoid mish mse_loss relu remainder rsub
    smooth_l1_loss soft_margin_loss softplus softshrink threshold
"""

_LOSSES = """
    _ctc_loss _cudnn_ctc_loss miopen_ctc_loss multi_margin_loss multilabel_margin_loss nll_loss
    nll_loss2d
"""

# conversions between storage formats
_SPARSE_FORMAT = """
    _coalesce _convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo _cslt_compress
    _sparse_mask_projection _sparse_semi_structured_apply _sparse_semi_structured_tile _spdiags
    _to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr _to_sparse_csc _to_sparse_csr
    _to_sparse_semi_structured sparse_mask
"""

# scales and roundings; products of quantised operands have formulas
_QUANTISATION = """
    _choose_qparams_per_tensor _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu
    _dyn_quant_pack_4bit_weight _empty_affine_quantized _empty_per_channel_affine_quantized
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fused_moving_avg_obs_fq_helper
    _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor dequantize
    fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
    int_repr quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic
"""

# fused updates of all parameters: elementwise, but over lists of tensors
_OPTIMISERS = """
    _amp_foreach_non_finite_check_and_unscale _fused_adagrad _fused_adam _fused_adamw _fused_sgd
"""


def _words(*blocks: str) -> frozenset[str]:
    return frozenset(word for block in blocks for word in block.split())


NO_WORK = _words(_NO_WORK)
ALLOCATES = _words(_ALLOCATES)
GATHERS = _words(_GATHERS)
ELEMENTWISE = _words(_ELEMENTWISE)
# Free of FLOPs, but what they write joins the elements of elementwise ops: a product can be made
# of any op that multiplies, squares or interpolates, one element per multiply-accumulate.
WRITTEN = _words(
    _NORMALISATION,
    _POOLING_AND_RESAMPLING,
    _QUANTISATION,
    """
    _logcumsumexp _segment_reduce _sparse_csr_prod cumprod dist index_reduce linalg__powsum
    linalg_vector_norm logcumsumexp logsumexp native_norm norm polar powsum prod renorm repeat
    scatter_reduce segment_reduce std std_mean var var_mean
    """,
)
FREE = GATHERS | _words(
    _MOVES,
    _REDUCTIONS,
    _NORMALISATION,
    _POOLING_AND_RESAMPLING,
    _RANDOM,
    _LOSSES,
    _SPARSE_FORMAT,
    _QUANTISATION,
    _OPTIMISERS,
)
# Whole namespaces: they mark profiler ranges or send tensors between processes.
SILENT_NAMESPACES = frozenset({"profiler", "c10d", "_c10d_functional", "prim"})
_SUFFIXES = ("_", "_copy", "_out", "_functional", "_backward", "_backward_data", "_forward")


def stems(name: str) -> frozenset[str]:
    """The name itself and what is left without its form's suffixes: `cumsum_` -> cumsum."""
    # Suffixes may stack, and may belong to the name (`__irshift__`): every shortened form counts.
    found, fresh = {name}, [name]
    while fresh:
        word = fresh.pop()
        shorter = {word.removesuffix(end) for end in _SUFFIXES} - found
        found |= shorter
        fresh.extend(shorter)
    return frozenset(found)
