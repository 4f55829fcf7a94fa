"""Lyrics files that players keep packed: KRC of KuGou, whose fixed key is published; QRC of QQ Music is encrypted.

Source of KRC: "krc1", then a zlib stream of UTF-8, each byte of it XOR the next one of a key of 16 bytes.
"""

import itertools
import zlib

KRC_MARK = b"krc1"
QRC_MARK = b"\x98\x25\xb0\xac"
_KRC_KEY = b"@Gaw^2tGQ61-\xce\xd2ni"


def unpack_krc(data: bytes, max_bytes: int) -> bytes | None:
    """Return the text in a KRC file, `max_bytes` and one more at most; None where it is damaged."""
    packed = bytes(byte ^ key for byte, key in zip(data[len(KRC_MARK) :], itertools.cycle(_KRC_KEY), strict=False))
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(packed, max_bytes + 1)
    except zlib.error:
        return None
    return text if stream.eof or len(text) > max_bytes else None
