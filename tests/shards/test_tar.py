"""Header blocks: what tarfile reads, and that no other header is accepted."""

import tarfile

import pytest

from shards.schema import ShardError
from shards.tar import build_header, pad_size, parse_header


def test_tarfile_reads_a_header_as_meant() -> None:
    info = tarfile.TarInfo.frombuf(build_header("song-1.latent.npy", 12_345), "utf-8", "strict")
    assert (info.name, info.size, info.mode, info.uid, info.gid) == ("song-1.latent.npy", 12_345, 0o644, 0, 0)
    assert build_header("a", 0)[136:148] == b"02263523000\0"  # as shards/README.md says
    assert (info.uname, info.gname, info.mtime, info.type) == ("", "", 315_532_800, tarfile.REGTYPE)


def test_parse_inverts_build() -> None:
    assert parse_header(build_header("a.json", 7), "x") == ("a.json", 7)


@pytest.mark.parametrize("position", [0, 101, 120, 130, 140, 150, 156, 160, 257, 270, 300, 330, 400, 511])
def test_any_changed_byte_is_noticed(position: int) -> None:
    block = bytearray(build_header("song-1.json", 100))
    block[position] ^= 1
    with pytest.raises(ShardError, match="shard.tar: .*header"):
        parse_header(bytes(block), "shard.tar")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("song-1.json")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(ShardError, match="was not written by this format"):
        parse_header(info.tobuf(tarfile.USTAR_FORMAT), "shard.tar")


def test_absurd_size_is_refused() -> None:
    block = build_header("song-1.json", 100)
    with pytest.raises(ShardError, match="claims 8589934591 bytes"):
        parse_header(block[:124] + b"77777777777\0" + block[136:], "shard.tar")


@pytest.mark.parametrize(("num_bytes", "expected"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_pad_size(num_bytes: int, expected: int) -> None:
    assert pad_size(num_bytes) == expected
