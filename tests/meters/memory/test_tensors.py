"""The memory meter: allocator events are exact to the byte, parts sum to the whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.guard import MeterStateError
from bench.meters.memory.storages import storage_bytes
from bench.meters.memory.tensors import (
    find_largest_batch,
    measure_inference_memory,
    measure_peak_bytes,
    measure_training_memory,
    watch,
)
from bench.types import Batch

KIB, MIB = 2**10, 2**20
FLOAT = 4


def big():
    """8 tensors of 4 MiB, all alive."""
    return [torch.zeros(MIB) for _ in range(8)]


def small():
    """512 tensors of 64 KiB, all alive."""
    return [torch.zeros(16 * KIB) for _ in range(512)]


def staircase():
    """6 MiB and 2 MiB alive together, then 2 MiB and 5 MiB: the peak is 8 MiB."""
    first = torch.zeros(6 * MIB // FLOAT)
    second = torch.zeros(2 * MIB // FLOAT)
    del first
    return second, torch.zeros(5 * MIB // FLOAT)


def untouched():
    """64 MiB that nobody writes to."""
    return torch.empty(16 * MIB)


@pytest.mark.parametrize(
    ("work", "expected"),
    [(big, 32 * MIB), (small, 32 * MIB), (staircase, 8 * MIB), (untouched, 64 * MIB)],
)
def test_the_peak_is_exact_first_and_second_time(work, expected):
    """Closed forms, to the byte, however often it is asked in one process."""
    assert measure_peak_bytes(work) == expected
    assert measure_peak_bytes(work) == expected


def test_a_two_layer_mlp_by_hand():
    """Two activations are alive at any moment: 2 x 1024 x 512 floats."""
    first, second = nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)
    inputs = torch.randn(1024, 512)
    with torch.inference_mode():
        peak = measure_peak_bytes(lambda: second(torch.relu(first(inputs))))
    assert peak == 2 * 1024 * 512 * FLOAT


def test_softmax_and_sort_need_little_more_than_their_tensors():
    """Scores, softmax, sorted values and int64 positions: 4 + 4 + 4 + 8 MiB, 64 KiB of scratch."""

    def work():
        scores = torch.randn(1024, 1024)
        return scores.softmax(-1).sort(-1), scores

    assert 20 * MIB <= measure_peak_bytes(work) <= 20 * MIB + 64 * KIB


def test_workspaces_inside_an_operator_count():
    """A 3x3 convolution may hold more than its output of 8 MiB, never less."""
    conv = nn.Conv2d(32, 32, 3, padding=1)
    images = torch.randn(4, 32, 128, 128)
    with torch.inference_mode():
        assert measure_peak_bytes(lambda: conv(images)) >= 4 * 32 * 128 * 128 * FLOAT


def test_a_window_that_allocates_nothing_measured_nothing():
    """No number instead of 0."""
    with pytest.raises(MeterStateError, match="allocated nothing"):
        measure_peak_bytes(lambda: None)


def in_a_thread():
    """16 MiB in a thread of its own, 40 bytes here."""
    kept = []
    thread = threading.Thread(target=lambda: kept.append(torch.zeros(4 * MIB)), name="aside")
    thread.start()
    thread.join()
    return kept, torch.zeros(10)


def test_memory_of_another_thread_is_not_missed_in_silence():
    """The profiler sees one thread: what others allocate makes the peak a lower bound."""
    assert watch(in_a_thread).reason == "memory of work in other threads (aside) was not seen"
    with pytest.raises(MeterStateError, match="aside"):
        measure_peak_bytes(in_a_thread)


def test_memory_of_a_thread_pool_is_not_missed_in_silence():
    """Nor is work that goes to a worker which was there before."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.zeros, 1).result()
        window = watch(lambda: (pool.submit(torch.zeros, 4 * MIB).result(), torch.zeros(10)))
    assert "a thread pool" in window.reason


def test_the_window_of_one_thread_is_in_no_doubt():
    """Threads that wait, this process has some, are none that work."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert watch(big).reason is None
    release.set()
    thread.join()


def test_it_refuses_under_a_dispatch_mode():
    """A counter's own tensors would be counted."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="memory"):
        measure_peak_bytes(big)


def test_frees_of_blocks_from_before_count_only_when_prepared():
    """What `prepare` allocates is not counted, and freeing it makes room in the window."""
    held = []

    def work():
        held.clear()
        return torch.zeros(MIB)

    window = watch(work, prepare=lambda: held.append(torch.zeros(MIB // 2)))
    assert window.peak_bytes == 2 * MIB


class Net(nn.Module):
    """256 -> 512 -> 256 with a buffer of 1 KiB."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
        self.register_buffer("scale", torch.ones(256))

    def forward(self, batch):
        return self.layers(batch.inputs) * self.scale


NET_PARAMS = 256 * 512 + 512 + 512 * 256 + 256


def test_inference_adds_the_models_own_tensors():
    """Resident: parameters and buffer; window: hidden twice (relu), as the larger pair."""
    found = measure_inference_memory(Net(), Batch(torch.randn(128, 256), torch.zeros(128)))
    assert found.resident_bytes == (NET_PARAMS + 256) * FLOAT
    assert found.window.peak_bytes == 2 * 128 * 512 * FLOAT
    assert found.peak_tensor_bytes == found.resident_bytes + found.window.peak_bytes
    assert (found.window.reserved_bytes, found.window.device_used_bytes) == (None, None)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_parts_of_a_training_step_are_exact_and_sum_to_the_peak(set_to_none):
    """AdamW: gradients as large as the parameters, two moments, a step counter per tensor."""
    model, batch = Net(), Batch(torch.randn(64, 256), torch.zeros(64))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    steps = []

    def step():
        optimizer.zero_grad(set_to_none=set_to_none)
        model(batch).square().mean().backward()
        optimizer.step()
        steps.append(1)

    step()
    first = measure_training_memory(model, optimizer, step)
    assert first.params_bytes == NET_PARAMS * FLOAT
    assert first.buffers_bytes == 256 * FLOAT
    assert first.grads_bytes == NET_PARAMS * FLOAT
    assert first.optimizer_bytes == 2 * NET_PARAMS * FLOAT + 4 * FLOAT
    parts = (
        first.params_bytes
        + first.buffers_bytes
        + first.grads_bytes
        + first.optimizer_bytes
        + first.activation_bytes
    )
    assert parts == first.peak_tensor_bytes
    assert first.activation_bytes > 0
    assert len(steps) == 2  # one of ours, one measured: the meter runs the step once
    assert measure_training_memory(model, optimizer, step) == first


def test_measuring_a_step_changes_no_gradient():
    """A step that accumulates sees the gradients it left."""
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step():
        model(torch.ones(1, 8)).sum().backward()

    step()
    measure_training_memory(model, optimizer, step)
    assert torch.equal(model.weight.grad, torch.full((8, 8), 2.0))


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
    """oneDNN's own layout has no storage to look into: 8 x 8 floats."""
    assert storage_bytes([torch.eye(8).to_mkldnn()]) == 256


@pytest.mark.parametrize("capacity", [0, 1, 5, 64, 1000, 4096])
def test_the_largest_batch_that_fits(capacity):
    """A device that holds `capacity` samples, probed up to 1000."""
    tried = []

    def run(size):
        tried.append(size)
        if size > capacity:
            raise torch.OutOfMemoryError("full")

    assert find_largest_batch(run, limit=1000) == min(capacity, 1000)
    assert max(tried) <= 1000
    assert len(tried) <= 21


def test_other_errors_of_a_batch_are_not_taken_for_a_full_device():
    """A broken model is not a small device."""

    def run(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_largest_batch(run)


@pytest.mark.gpu
def test_a_gpu_tells_allocated_reserved_and_the_rest():
    """1 GiB of tensors is allocated to the byte's block and reserved at least as much."""
    window = watch(lambda: torch.zeros(2**28, device="cuda"), "cuda")
    assert window.peak_bytes == 2**30
    assert window.reserved_bytes >= 2**30
    assert window.device_used_bytes is None or window.non_torch_bytes is not None
