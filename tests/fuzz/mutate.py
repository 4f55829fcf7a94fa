"""Inputs near a seed, without a fuzzing engine: for CI, and where atheris is not installed."""

import random

_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"9" * 20,
    b"-1",
    b"[",
    b"{",
    b'"',
    b"\n",
    b"<<",
)


def mutate(seeds: list[bytes], generator: random.Random, max_bytes: int) -> bytes:
    """Return a seed after one to eight changes: bits, bytes, cuts, repeats, pieces of another seed."""
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 8)):
        at = generator.randrange(len(data) + 1)
        end = min(at + generator.choice((1, 2, 4, 16, 256)), len(data))
        kind = generator.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = generator.randrange(256)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * generator.choice((1, 2, 50))
        elif kind == 4:
            data[at:end] = generator.choice(_INTERESTING)
        elif kind == 5:
            other = generator.choice(seeds)
            start = generator.randrange(len(other) + 1)
            data[at:end] = other[start : start + generator.choice((4, 64, 1024))]
        else:
            del data[at:]
    return bytes(data[:max_bytes])
