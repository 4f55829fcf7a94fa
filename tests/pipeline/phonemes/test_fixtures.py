"""Agreement of the reference mode with the reference's outputs."""

import json
from pathlib import Path

import pytest

from pipeline.phonemes.fixtures import check_g2p, classify_difference, index_streams
from shards.vocabulary import COMMA_ID, PERIOD_ID, TAG_IDS


@pytest.mark.parametrize(
    "name", ["g2p_dev.jsonl", "g2p_dev_errors.jsonl", "homograph_isolated.jsonl", "format_dev.jsonl", "clean_dev.jsonl"]
)
def test_fixtures_are_equal(shared: Path, name: str) -> None:
    result = check_g2p(shared / "g2p" / name)
    assert result["ok"]
    assert result["equal"] == result["rows"]
    assert result["differing"] == []


def test_a_difference_is_counted_and_shown(tmp_path: Path) -> None:
    rows = [
        {"text": "hello", "tokens": ["HH", "AH0", "L", "OW1"], "ids": [59, 20, 70, 76], "dropped": [], "cat": "en"},
        {"text": "你好", "tokens": ["n", "i3"], "ids": [235, 176], "dropped": [], "cat": "zh"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    result = check_g2p(path)
    assert not result["ok"]
    assert (result["chinese_lines_rate"], result["english_lines_rate"]) == (0.0, 1.0)
    assert result["categories"] == {"en": (1, 1), "zh": (0, 1)}
    assert result["differing"][0]["found"] == ["n", "i2", "h", "ao3"]
    assert result["differing"][0]["class"] == "sounds"


@pytest.mark.parametrize(
    ("expected", "found", "name"),
    [
        (["n", "i3"], ["n", "i2"], "tones"),
        (["AA0"], ["AA1"], "tones"),
        (["n", "i3", "."], ["n", "i3", ","], "marks"),
        (["", "i3"], ["i3"], "marks"),
        (["n", "i3"], ["l", "i3"], "sounds"),
    ],
)
def test_differences_have_a_class(expected: list[str], found: list[str], name: str) -> None:
    assert classify_difference(expected, found) == name


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ("", "[1]", '{"a": 1}', "no json"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rows.jsonl|Expecting value"):
            check_g2p(path)


def test_index_streams_count_sentences_anew_at_every_tag() -> None:
    verse, chorus = TAG_IDS["verse"], TAG_IDS["chorus"]
    ids = [50, verse, 50, PERIOD_ID, 51, 52, COMMA_ID, chorus, 50, PERIOD_ID, PERIOD_ID, 51]
    tags, sentences = index_streams(ids)
    assert tags == [0, verse, verse, PERIOD_ID, verse, verse, COMMA_ID, chorus, chorus, PERIOD_ID, PERIOD_ID, chorus]
    assert sentences == [1, 0, 1, 0, 2, 2, 0, 0, 1, 0, 0, 3]
    assert max(index_streams([verse, *[50, PERIOD_ID] * 60])[1]) == 49
