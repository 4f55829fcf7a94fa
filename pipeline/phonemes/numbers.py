"""Numbers as words, in English and Chinese."""

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ("", "thousand", "million", "billion", "trillion")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_DIGITS_ZH = "零一二三四五六七八九"
_UNITS_ZH = ("", "十", "百", "千")
MAX_DIGITS = 15

_POUNDS = re.compile(r"£([0-9]+)")
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)")
_NUMBER = re.compile(r"[0-9]+")


def expand_english(text: str) -> str:
    """Write every number in `text` as words: 1999 as a year, 21st as an ordinal, £5 as pounds."""
    text = _POUNDS.sub(r"\1 pounds", text)
    text = _ORDINAL.sub(lambda match: _write_ordinal(match[1]), text)
    return _NUMBER.sub(lambda match: _write_cardinal(match[0]), text)


def expand_chinese(digits: str) -> str:
    """Read digits in Chinese: years and long numbers digit by digit, others as quantities."""
    number = int(digits) if len(digits) <= MAX_DIGITS else 0
    if digits.startswith("0") or len(digits) > 8 or 1900 <= number <= 2099:
        return "".join(_DIGITS_ZH[int(digit)] for digit in digits)
    return _count_chinese(number)


def _write_cardinal(digits: str) -> str:
    if len(digits.lstrip("0")) > MAX_DIGITS:
        return " ".join(_ONES[int(digit)] for digit in digits)
    number = int(digits)
    if 1000 < number < 3000 and number != 2000 and not 2000 < number < 2010:
        return _write_year(number)
    return _spell(number)


def _write_year(number: int) -> str:
    century, rest = divmod(number, 100)
    if rest == 0:
        return f"{_spell(century)} hundred"
    return f"{_spell(century)} {'oh ' if rest < 10 else ''}{_spell(rest)}"


def _write_ordinal(digits: str) -> str:
    words = _spell(int(digits[-MAX_DIGITS:]), " and ")
    head, last = re.fullmatch(r"(.*?)([a-z]+)", words).groups()  # type: ignore[union-attr]  # words end in a word
    if last in _ORDINALS:
        return head + _ORDINALS[last]
    return head + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def _spell(number: int, joint: str = " ") -> str:
    """Spell a number; commas stand between groups of thousands, but not before a last group of one word."""
    if number == 0:
        return _ONES[0]
    groups: list[str] = []
    for scale in _SCALES:
        number, group = divmod(number, 1000)
        if group:
            groups.insert(0, f"{_spell_group(group, joint)} {scale}".strip())
        if not number:
            break
    if len(groups) > 1 and " " not in groups[-1]:
        groups[-2:] = [groups[-2] + joint + groups[-1]]
    return ", ".join(groups)


def _spell_group(number: int, joint: str) -> str:
    hundreds, rest = divmod(number, 100)
    words = [f"{_ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        tens, ones = divmod(rest, 10)
        words.append(_TENS[tens] + (f"-{_ONES[ones]}" if ones else ""))
    elif rest:
        words.append(_ONES[rest])
    return joint.join(words)


def _count_chinese(number: int) -> str:
    """Read a quantity: 10 is 十, 105 is 一百零五, 20003 is 二万零三."""
    words = ""
    digits = str(number)
    for place, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True):
        if digit != "0":
            words += _DIGITS_ZH[int(digit)] + _UNITS_ZH[place % 4]
        elif words and words[-1] != _DIGITS_ZH[0]:
            words += _DIGITS_ZH[0]
        if place == 4 and digits[:-4].strip("0"):
            words = words.rstrip(_DIGITS_ZH[0]) + "万"
            words += _DIGITS_ZH[0] if digits[-4] == "0" else ""
    words = words.rstrip(_DIGITS_ZH[0]) or _DIGITS_ZH[0]
    return words[1:] if words.startswith("一十") else words
