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


def build_header(name: str, num_bytes: int) -> bytes:
    """Return the header block of a regular file `name` that holds `num_bytes` bytes."""
    encoded = name.encode("ascii")
    assert 0 < len(encoded) <= _MAX_NAME_BYTES, f"{name!r} does not fit a ustar name field"
    assert 0 <= num_bytes <= MAX_MEMBER_BYTES, f"{num_bytes} bytes do not fit a member"
    mode_and_owner = b"0000644\0" + b"0000000\0" + b"0000000\0"
    before_checksum = encoded.ljust(_MAX_NAME_BYTES, b"\0") + mode_and_owner + b"%011o\0%011o\0" % (num_bytes, MTIME)
    type_and_link = b"0" + bytes(100)
    names_and_devices = bytes(64) + b"0000000\0" + b"0000000\0"
    after_checksum = type_and_link + b"ustar\0" + b"00" + names_and_devices + bytes(167)
    checksum = sum(before_checksum) + 8 * ord(" ") + sum(after_checksum)
    return before_checksum + b"%06o\0 " % checksum + after_checksum


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
