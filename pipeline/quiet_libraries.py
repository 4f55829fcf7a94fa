"""Warnings that libraries make about their own code, kept out of a worker's log. All others stay."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_weight_norm_warning() -> Iterator[None]:
    """Leave out PyTorch's remark that `weight_norm` is deprecated: diffusers and muq call it, once per convolution."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.*deprecated", FutureWarning)
        yield
