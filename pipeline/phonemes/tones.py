"""Tone sandhi of Mandarin: 不 and 一, neutral tones, third tones; and the words within which they act.

The rules are those of PaddleSpeech's front end, which the reference uses, including the cases that they miss.
A final carries its tone as last character; 5 is neutral.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources

from pipeline.phonemes.segments import split_search

Tagged = tuple[str, str]  # a word and its part of speech
FindFinals = Callable[[str], list[str]]

_PARTICLES = "吧呢哈啊呐噻嘛吖嗨哦哒额滴哩哟喽啰耶喔诶"
_STRUCTURAL = "的地得"
_ASPECT_TAGS = frozenset({"ul", "uz", "ug"})  # 走了, 看着, 去过
_PLACE_TAGS = frozenset({"s", "l", "f"})  # 桌上, 地下, 家里
_MOVES = "上下进出回过起开"  # before 来 and 去: 上来, 下去
_COUNTED = "几有两半多各整每做是"  # before 个


def apply_sandhi(word: str, tag: str, finals: Sequence[str]) -> list[str]:
    """Return the finals of a word as spoken.

    Args:
        word: Chinese characters.
        tag: its part of speech.
        finals: with tones, one per character.
    """
    spoken = list(finals)
    _change_bu(word, spoken)
    _change_yi(word, spoken)
    _neutralise(word, tag, spoken)
    _change_third_tones(word, spoken)
    return spoken


def merge_words(words: Sequence[Tagged], find_finals: FindFinals) -> list[Tagged]:
    """Join words that are spoken as one: 不 and 一 with what follows, repeated words, short third-tone pairs, 儿."""
    merged = _merge_yi(_merge_bu(words))
    merged = _merge_repeated(merged)
    merged = _merge_third_tones(merged, find_finals, is_whole=True)
    merged = _merge_third_tones(merged, find_finals, is_whole=False)
    return _merge_er(merged)


def _merge_bu(words: Iterable[Tagged]) -> list[Tagged]:
    merged: list[Tagged] = []
    is_open = False
    for word, tag in words:
        if is_open:
            word = "不" + word
        is_open = word == "不"
        if not is_open:
            merged.append((word, tag))
    return [*merged, ("不", "d")] if is_open else merged


def _merge_yi(words: list[Tagged]) -> list[Tagged]:
    """Join 听 一 听, then 一 with the word after it; a second 听一听 in one run makes the reference give up on both."""
    first: list[Tagged] = []
    for index, (word, tag) in enumerate(words):
        if _is_yi_between_twins(words, index):
            if index - 1 >= len(first):
                return words
            twin, twin_tag = first[index - 1]
            first[index - 1] = (f"{twin}一{twin}", twin_tag)
        elif index >= 2 and words[index - 1][0] == "一" and words[index - 2][0] == word and tag == "v":
            continue
        else:
            first.append((word, tag))
    merged: list[Tagged] = []
    for word, tag in first:
        if merged and merged[-1][0] == "一":
            merged[-1] = ("一" + word, merged[-1][1])
        else:
            merged.append((word, tag))
    return merged


def _is_yi_between_twins(words: Sequence[Tagged], index: int) -> bool:
    if words[index][0] != "一" or not 0 < index < len(words) - 1:
        return False
    return words[index - 1][0] == words[index + 1][0] and words[index - 1][1] == "v"


def _merge_repeated(words: Iterable[Tagged]) -> list[Tagged]:
    merged: list[Tagged] = []
    for word, tag in words:
        if merged and merged[-1][0] == word:
            merged[-1] = (word + word, merged[-1][1])
        else:
            merged.append((word, tag))
    return merged


def _merge_third_tones(words: list[Tagged], find_finals: FindFinals, *, is_whole: bool) -> list[Tagged]:
    """Join two words of at most three characters whose tones, or whose meeting tones, are third."""
    finals = [find_finals(word) for word, _ in words]
    merged: list[Tagged] = []
    was_joined = False
    for index, (word, tag) in enumerate(words):
        was_joined = (
            index > 0
            and not was_joined
            and _are_third(finals[index - 1] if is_whole else finals[index - 1][-1:])
            and _are_third(finals[index] if is_whole else finals[index][:1])
            and not _is_repeated(words[index - 1][0])
            and len(words[index - 1][0]) + len(word) <= 3
        )
        if was_joined:
            merged[-1] = (merged[-1][0] + word, merged[-1][1])
        else:
            merged.append((word, tag))
    return merged


def _merge_er(words: Iterable[Tagged]) -> list[Tagged]:
    merged: list[Tagged] = []
    for word, tag in words:
        if word == "儿" and merged:
            merged[-1] = (merged[-1][0] + word, merged[-1][1])
        else:
            merged.append((word, tag))
    return merged


def _change_bu(word: str, finals: list[str]) -> None:
    """看不懂: neutral in the middle of three; 不怕: second tone before a fourth."""
    if len(word) == 3 and word[1] == "不":
        _set_tone(finals, 1, "5")
        return
    for index, char in enumerate(word[:-1]):
        if char == "不" and finals[index + 1].endswith("4"):
            _set_tone(finals, index, "2")


def _change_yi(word: str, finals: list[str]) -> None:
    """看一看: neutral; 一段: second before a fourth; 一天: fourth elsewhere; numbers and 第一 keep the first."""
    if "一" not in word or all(char.isnumeric() for char in word):
        return
    if len(word) == 3 and word[1] == "一" and word[0] == word[2]:
        _set_tone(finals, 1, "5")
    elif word.startswith("第一"):
        _set_tone(finals, 1, "1")
    else:
        for index, char in enumerate(word[:-1]):
            if char == "一":
                _set_tone(finals, index, "2" if finals[index + 1].endswith("4") else "4")


def _neutralise(word: str, tag: str, finals: list[str]) -> None:
    neutral, kept = _load_neutral_words()
    for index in range(1, len(word)):  # 奶奶, 试试
        if word[index] == word[index - 1] and tag[:1] in "nva" and word not in kept:
            _set_tone(finals, index, "5")
    ge = word.find("个")
    if word[-1] in _PARTICLES or word[-1] in _STRUCTURAL or _ends_neutral(word, tag, word in kept):
        _set_tone(finals, -1, "5")
    elif (ge >= 1 and (word[ge - 1].isnumeric() or word[ge - 1] in _COUNTED)) or word == "个":
        _set_tone(finals, ge, "5")
    elif word in neutral or word[-2:] in neutral:
        _set_tone(finals, -1, "5")
    head, tail = _split_word(word)
    for part, end in ((head, len(head)), (tail, len(word))):
        if part and (part in neutral or part[-2:] in neutral):
            _set_tone(finals, end - 1, "5")


def _ends_neutral(word: str, tag: str, keeps_tone: bool) -> bool:
    if len(word) == 1:
        return word in "了着过" and tag in _ASPECT_TAGS
    if word[-1] in "们子":
        return tag in ("r", "n") and not keeps_tone
    if word[-1] in "上下里":
        return tag in _PLACE_TAGS
    return word[-1] in "来去" and word[-2] in _MOVES


def _change_third_tones(word: str, finals: list[str]) -> None:
    """The first of two third tones becomes second; in three or four characters this follows the parts of the word."""
    if len(word) == 2 and _are_third(finals):
        _set_tone(finals, 0, "2")
    elif len(word) == 3:
        cut = len(_split_word(word)[0])
        if _are_third(finals):
            for index in (0, 1) if cut == 2 else (1,) if cut == 1 else ():
                _set_tone(finals, index, "2")
            return
        head, tail = finals[:cut], finals[cut:]
        if len(head) == 2 and _are_third(head):  # 所有 人
            _set_tone(finals, 0, "2")
        if len(tail) == 2 and _are_third(tail):
            _set_tone(finals, cut, "2")
        elif tail and not _are_third(tail) and tail[0].endswith("3") and head and head[-1].endswith("3"):  # 好 喜欢
            _set_tone(finals, cut - 1, "2")
    elif len(word) == 4:
        for start in (0, 2):
            if _are_third(finals[start : start + 2]):
                _set_tone(finals, start, "2")


def _split_word(word: str) -> tuple[str, str]:
    """Split a word in two at its shortest known part; the second is empty where it is one character."""
    if len(word) == 1:
        return word, ""
    shortest = split_search(word)[0]
    if word.startswith(shortest):
        return shortest, word[len(shortest) :]
    return word[: -len(shortest)], shortest


@cache
def _load_neutral_words() -> tuple[frozenset[str], frozenset[str]]:
    """Words with a neutral last syllable, and words that keep their tone."""
    path = resources.files("pipeline.phonemes").joinpath("data", "mandarin_neutral_words.txt")
    words = [row for row in path.read_text(encoding="utf-8").splitlines() if row and not row.startswith("#")]
    return (
        frozenset(word for word in words if not word.startswith("-")),
        frozenset(word[1:] for word in words if word.startswith("-")),
    )


def _are_third(finals: Sequence[str]) -> bool:
    return all(final.endswith("3") for final in finals)


def _is_repeated(word: str) -> bool:
    return len(word) == 2 and word[0] == word[1]


def _set_tone(finals: list[str], index: int, tone: str) -> None:
    finals[index] = finals[index][:-1] + tone
