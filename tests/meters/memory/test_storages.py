"""Bytes of the storages behind tensors, whatever their layout."""

from __future__ import annotations

import pytest
import torch

from bench.meters.memory.storages import storage_bytes


def test_shared_storage_counts_once():
    """Views, tied weights and empty tensors add nothing."""
    base = torch.zeros(1000)
    assert storage_bytes([base, base[10:], base.view(10, 100), torch.empty(0)]) == 4000
    assert storage_bytes([]) == 0


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_storages_are_values_and_indices():
    """Of 8 x 8 numbers 8 are stored, 32 bytes, with int64 places: 2 x 8 (COO), 9 + 8 (CSR, CSC).

    In blocks of 4 x 4 two blocks are 128 bytes, with 3 + 2 places.
    """
    eight, nine, ones = torch.arange(8), torch.arange(9), torch.ones(8)
    assert storage_bytes([torch.sparse_coo_tensor(eight.repeat(2, 1), ones)]) == 32 + 16 * 8
    assert storage_bytes([torch.sparse_csr_tensor(nine, eight, ones)]) == 32 + (9 + 8) * 8
    assert storage_bytes([torch.sparse_csc_tensor(nine, eight.clone(), ones)]) == 32 + (9 + 8) * 8
    blocks = torch.sparse_bsr_tensor(torch.arange(3), torch.arange(2), torch.ones(2, 4, 4))
    assert storage_bytes([blocks]) == 128 + (3 + 2) * 8


def test_an_opaque_storage_is_its_elements():
    """oneDNN's own layout has no accessible storage: 8 x 8 floats."""
    assert storage_bytes([torch.eye(8).to_mkldnn()]) == 256
