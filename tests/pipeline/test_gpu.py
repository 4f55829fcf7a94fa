"""What differs on a GPU: memory that runs out, and float32 that is rounded."""

import logging
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline import gpu
from pipeline.gpu import ieee_float32, is_out_of_memory, run_in_parts, tf32

NO_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"


class Network:
    """Doubles numbers, and has no memory for more than `most` of them."""

    def __init__(self, most: int, error: RuntimeError | None = None) -> None:
        self.most, self.error = most, error or torch.OutOfMemoryError(NO_MEMORY)
        self.sizes: list[int] = []

    def __call__(self, part: list[int]) -> np.ndarray:
        self.sizes.append(len(part))
        if len(part) > self.most:
            raise self.error
        return 2 * np.array(part)


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    gpu._tell_once.cache_clear()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(NO_MEMORY), True),
        (torch.OutOfMemoryError(), True),
        (RuntimeError("CUDA failed with error out of memory"), True),  # CTranslate2
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=repr,
)
def test_errors_that_mean_no_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8])
def test_results_are_those_of_whole_batches(most: int) -> None:
    batches = [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10], [11]]
    assert list(run_in_parts(Network(most), batches)) == [2 * number for number in range(12)]


def test_a_batch_without_memory_runs_in_halves_and_so_do_later_ones_of_the_call() -> None:
    network = Network(2)
    assert list(run_in_parts(network, [range(8), range(3)])) == [*range(0, 16, 2), 0, 2, 4]
    assert network.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    network.sizes.clear()
    list(run_in_parts(network, [range(8)]))
    assert network.sizes[0] == 8  # another call tries a whole batch again: other programs may have left the GPU


def test_batches_are_taken_one_at_a_time() -> None:
    taken = []

    def batches() -> Iterator[list[int]]:
        for number in range(3):
            taken.append(number)
            yield [number]

    results = run_in_parts(Network(1), batches())
    assert next(results) == 0
    assert taken == [0]


@pytest.mark.parametrize(
    ("most", "error", "sizes"),
    [(0, torch.OutOfMemoryError(NO_MEMORY), [4, 2, 1]), (3, RuntimeError("shapes cannot be multiplied"), [4])],
)
def test_other_errors_and_those_of_one_item_go_up_unchanged(most: int, error: RuntimeError, sizes: list[int]) -> None:
    network = Network(most, error)
    with pytest.raises(RuntimeError) as raised:
        list(run_in_parts(network, [range(4)]))
    assert raised.value is error
    assert network.sizes == sizes


def test_what_the_network_had_allocated_is_free_before_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error holds on to the frames that it came through, and they to their tensors."""
    freed: list[bool] = []
    allocated: list[weakref.ref[torch.Tensor]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(allocated[0]() is None))

    def run(part: list[int]) -> list[int]:
        activations = torch.zeros(10)
        if len(part) > 1:
            allocated.append(weakref.ref(activations))
            raise torch.OutOfMemoryError(NO_MEMORY)
        return part

    assert list(run_in_parts(run, [[1, 2]])) == [1, 2]
    assert freed == [True]


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            list(run_in_parts(Network(1), [range(8)]))
    assert [record.name for record in caplog.records] == ["pipeline.gpu"]
    assert "no memory for a whole batch" in caplog.text


# ---- precision


def state() -> tuple[bool, str]:
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.fixture
def _tf32_process() -> Iterator[None]:
    before = state()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.usefixtures("_tf32_process")
def test_precision_is_set_for_a_block_and_put_back() -> None:
    with ieee_float32():
        assert state() == (False, "highest")
        with tf32():
            assert state() == (True, "high")
        assert state() == (False, "highest")
    assert state() == (True, "medium")
    with pytest.raises(ValueError, match="of the caller"), ieee_float32():
        raise ValueError("of the caller")
    assert state() == (True, "medium")
