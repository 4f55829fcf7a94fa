"""Array bytes: what NumPy reads and what is refused before anything is allocated."""

import io
import pickle
from typing import Any

import numpy as np
import pytest

from shards.npy import decode_array, encode_array
from shards.schema import FIELDS, LATENTS, PROMPTS, SEMANTIC_TOKENS, Field, ShardError

LATENT_ARRAY = np.arange(24, dtype=np.float16).reshape(6, 4)


def decode(data: bytes, field: Field = LATENTS) -> Any:
    return decode_array(np.frombuffer(data, np.uint8), field, "sample 'x'")


def with_header(text: str, payload: bytes = b"") -> bytes:
    header = text.encode("ascii") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload


@pytest.mark.parametrize(
    ("field", "array"),
    [
        (SEMANTIC_TOKENS, np.arange(1000, dtype=np.uint16)),
        (LATENTS, LATENT_ARRAY),
        (PROMPTS, np.ones((3, 250, 8), np.float16)),
    ],
)
def test_round_trip_and_numpy_reads_it(field: Field, array: np.ndarray[Any, Any]) -> None:
    data = encode_array(array, field)
    assert data.index(b"\n") % 64 == 63  # data is aligned
    for decoded in (decode(data, field), np.load(io.BytesIO(data), allow_pickle=False)):
        assert decoded.dtype == array.dtype
        np.testing.assert_array_equal(decoded, array)


def test_reads_what_numpy_writes() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, LATENT_ARRAY, version=(1, 0), allow_pickle=False)
    np.testing.assert_array_equal(decode(buffer.getvalue()), LATENT_ARRAY)


@pytest.mark.parametrize("other", [LATENT_ARRAY.astype(">f2"), np.asfortranarray(LATENT_ARRAY)], ids=["big", "fortran"])
def test_bytes_do_not_depend_on_memory_layout(other: np.ndarray[Any, Any]) -> None:
    assert encode_array(other, LATENTS) == encode_array(LATENT_ARRAY, LATENTS)


def save(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "pickled": (save(np.array([{"a": 1}], dtype=object)), "'\\|O'"),
    "bare pickle": (pickle.dumps(LATENT_ARRAY), "npy version 1.0"),
    "other dtype": (save(LATENT_ARRAY.astype(np.float32)), "'<f4' in C order"),
    "big endian": (save(LATENT_ARRAY.astype(">f2")), "'>f2'"),
    "fortran": (save(np.asfortranarray(LATENT_ARRAY)), "Fortran"),
    "code": (with_header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (6, 4), }"), "plain array"),
    "huge": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (999999999999, 64), }"), "T=999999999999"),
    "over the limit": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (1000000, 1024), }"), "cut"),
    "long digits": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }"), "plain"),
    "not ascii": (encode_array(LATENT_ARRAY, LATENTS).replace(b"<f2", b"<\xca2"), "'<Ê2'"),
    "negative": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (-6, 4), }"), "plain array"),
    "empty axis": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 4), }"), "T=0"),
    "axes": (with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (6,), }"), "2 axes"),
    "too short": (encode_array(LATENT_ARRAY, LATENTS)[:-1], "needs"),
    "too long": (encode_array(LATENT_ARRAY, LATENTS) + b"\0", "needs"),
    "version 2": (b"\x93NUMPY\x02\x00" + encode_array(LATENT_ARRAY, LATENTS)[8:], "version 1.0"),
    "nothing": (b"", "version 1.0"),
    "magic only": (b"\x93NUMPY\x01\x00", "version 1.0"),
    "header past the end": (b"\x93NUMPY\x01\x00\xff\xff{", "plain array"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_by_name(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(ShardError, match=f"sample 'x': latent.npy.*{message}"):
        decode(data)


def test_every_array_field_has_a_stored_type() -> None:
    assert [field.dtype for field in FIELDS] == [None, "uint16", "float16", "float16", "float16"]
