"""The bytes between the members of a shard: ustar headers with fixed owner, mode and time, padding, the end mark.

Headers are built here rather than by `tarfile`, so that the bytes do not depend on the release of Python. A
header is accepted only if it is exactly the one that its name and size give.
"""

from shards.schema import MAX_MEMBER_BYTES, ShardError

BLOCK_BYTES = 512
END_MARK = bytes(2 * BLOCK_BYTES)  # the last bytes of a shard
MTIME = 315_532_800  # 1980-01-01: some tools warn about 1970, and zip cannot go below this
_MAX_NAME_BYTES = 100
_SIZE = slice(124, 136)

# What stands between name, size and checksum is the same in every header.
_MODE_AND_OWNER = b"0000644\0" + b"0000000\0" + b"0000000\0"
_TIME = b"%011o\0" % MTIME
_TYPE_AND_LINK = b"0" + bytes(100)
_REST = _TYPE_AND_LINK + b"ustar\0" + b"00" + bytes(64) + b"0000000\0" + b"0000000\0" + bytes(167)
_FIXED_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_REST)  # the checksum counts itself as spaces


def build_header(name: str, num_bytes: int) -> bytes:
    """Return the header block of a regular file `name` that holds `num_bytes` bytes."""
    encoded = name.encode("ascii")
    assert 0 < len(encoded) <= _MAX_NAME_BYTES, f"{name!r} does not fit a ustar name field"
    assert 0 <= num_bytes <= MAX_MEMBER_BYTES, f"{num_bytes} bytes do not fit a member"
    numbers = b"%011o\0" % num_bytes
    checksum = sum(encoded) + sum(numbers) + _FIXED_SUM
    return encoded.ljust(_MAX_NAME_BYTES, b"\0") + _MODE_AND_OWNER + numbers + _TIME + b"%06o\0 " % checksum + _REST


def parse_header(block: bytes, where: str) -> tuple[str, int]:
    """Return the name and the size in a header block.

    Raises:
        ShardError: the block is not, byte for byte, what `build_header` gives for this name and size.
    """
    try:
        name = block[:_MAX_NAME_BYTES].rstrip(b"\0").decode("ascii")
        num_bytes = int(block[_SIZE].rstrip(b"\0").decode("ascii"), 8)
    except ValueError as error:
        raise ShardError(f"{where}: no tar header of a shard: {block[:32]!r}...") from error
    if not name or not 0 <= num_bytes <= MAX_MEMBER_BYTES:
        raise ShardError(f"{where}: header of {name!r} claims {num_bytes} bytes, expected 0 to {MAX_MEMBER_BYTES}")
    if block != build_header(name, num_bytes):
        raise ShardError(f"{where}: header of {name!r} is damaged or was not written by this format")
    return name, num_bytes


def pad_size(num_bytes: int) -> int:
    """Return `num_bytes` rounded up to whole blocks."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
