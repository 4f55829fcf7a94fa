"""The benchmark of encodings: made files are the same every time, and missing packages are named."""

import importlib.util
import unicodedata

import pytest

from pipeline import bench_encodings, encoding_texts, letter_table
from pipeline.encoding_texts import SourceMissingError, encode, make_files, read_translations

LINES = ["Czekam na ciebie przy oknie", "że już świt, a ja wciąż śpię", "Późno już, zgaś światło"]


@pytest.fixture
def polish(monkeypatch):
    monkeypatch.setattr(encoding_texts, "read_translations", lambda language, *, for_table: LINES * (language == "pl"))
    monkeypatch.setattr(encoding_texts, "read_words", lambda language: ([], []))


@pytest.fixture
def bare(monkeypatch):
    """An environment without the packages that texts are taken from."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for read in (encoding_texts.read_translations, encoding_texts.read_words):
        read.cache_clear()


def test_files_are_the_same_every_time(polish):
    files = list(make_files("cp1250", "pl", "translations", 5))
    assert files == list(make_files("cp1250", "pl", "translations", 5))
    assert len(files) == 5
    assert all(data.decode("cp1250") == text and text.count("\n") == 7 for text, data in files)


def test_vietnamese_tones_stand_behind_their_letters():
    data = encode("Tiếng Việt ở đây", "cp1258")
    assert unicodedata.normalize("NFC", data.decode("cp1258")) == "Tiếng Việt ở đây"


def test_shares_are_those_of_the_files(polish, monkeypatch):
    found = bench_encodings.measure_encodings(4, encodings=["cp1250", "iso8859_2"])
    assert [(row["encoding"], row["language"], row["files"], row["ours"]) for row in found["pairs"]] == [
        ("cp1250", "pl", 4, 1.0),
        ("iso8859_2", "pl", 4, 1.0),
    ]
    monkeypatch.setattr(bench_encodings, "_detect_ours", lambda data: (data.decode("latin-1"), True))
    row = bench_encodings.measure_encodings(4, encodings=["cp1250"])["pairs"][0]
    assert (row["ours"], row["wrong_marked"], row["right_marked"]) == (0.0, 4, 0)


def test_missing_packages_are_named(bare, capsys):
    found = bench_encodings.measure_encodings(4, rivals=["chardet"])
    assert found["pairs"] == []
    assert found["missing"] == [
        "chardet is not installed",
        "django is not installed: no files of translations",
        "wordfreq is not installed: no files of words",
    ]
    with pytest.raises(SourceMissingError, match="django"):
        letter_table.write_table(letter_table.TABLE_PATH)
    with pytest.raises(SourceMissingError):
        read_translations("pl", for_table=True)
