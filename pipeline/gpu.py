"""What differs on a GPU: its memory runs out, and it rounds float32 unless told otherwise.

PyTorch is imported where it is used: who only asks what an error means need not wait for it.
"""

import functools
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of PyTorch and CTranslate2 ("CUDA failed with error out of memory"), and of the libraries below both of them.
_OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether a GPU had no memory left: PyTorch has a class for it, CTranslate2 and cuBLAS only a text."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def run_in_parts(run: Callable[[list[Item]], Iterable[Result]], batches: Iterable[Sequence[Item]]) -> Iterator[Result]:
    """Yield what `run` returns for each item, batch after batch.

    A batch that a GPU has no memory for runs again in halves, down to single items, and later batches of this call run
    in parts of that size. What `run` raises for a single item, or for any other reason, goes up unchanged.

    Args:
        run: returns one result for each item that it is given, in order.
        batches: taken one at a time.
    """
    limit: int | None = None
    for batch in batches:
        start = 0
        while start < len(batch):
            part = list(batch[start : None if limit is None else start + limit])
            results = _try_part(run, part)
            if results is None:
                limit = len(part) // 2
                _tell_once()
                _free_memory()
                continue
            assert len(results) == len(part), f"{len(results)} results of {len(part)} items"
            yield from results
            start += len(part)


def _try_part(run: Callable[[list[Item]], Iterable[Result]], part: list[Item]) -> list[Result] | None:
    """Return the results, None where the GPU had no memory for more than one item.

    Nothing is freed here: until the error is gone, it holds on to all that the network had allocated.
    """
    try:
        return list(run(part))
    except RuntimeError as error:
        if len(part) == 1 or not is_out_of_memory(error):
            raise
    return None


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@functools.cache
def _tell_once() -> None:
    logger.warning(
        "the GPU has no memory for a whole batch: its parts run a few at a time, with the same results but slower; "
        "fewer workers per GPU leave more of it, as does a smaller gpu_batch of the profile (said once)"
    )


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Run a block in IEEE float32, 24 bits of significand, whatever the process has set.

    Since Ampere a GPU can round the factors of products to TF32, 11 bits. PyTorch lets it do so in convolutions unless
    told otherwise, and in matrix products where the process allows it. What becomes training data must not depend on
    that. On a CPU nothing changes, unless the process asked for less.

    The settings are those of the process: one thread at a time may run networks. The caller's are put back.
    """
    with _float32(allow_tf32=False, matmul_precision="highest"):
        yield


@contextmanager
def tf32() -> Iterator[None]:
    """Let a GPU round the factors of convolutions and matrix products to TF32, see `ieee_float32`."""
    with _float32(allow_tf32=True, matmul_precision="high"):
        yield


@contextmanager
def _float32(*, allow_tf32: bool, matmul_precision: str) -> Iterator[None]:
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        _set_float32(allow_tf32, matmul_precision)
        yield
    finally:
        _set_float32(*before)


def _set_float32(allow_tf32: bool, matmul_precision: str) -> None:
    import torch

    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.set_float32_matmul_precision(matmul_precision)
