"""Who sings a line, as marks before it say: "F:" and "M:" of karaoke files, "v1:", "Both:", "(男)"."""

import re

# Walaoke's marks hold until the next one.
LASTING = frozenset({"female", "male", "duet"})
_ONE_LETTER = re.compile(r"(?P<mark>[FMD])\s?:\s*(?=\S)")
_VOICE = re.compile(r"(?P<mark>[vV]\d|bg|BG)\s?:\s*(?=\S)")
_PERFORMER = re.compile(  # with a colon at the start of a line, in parentheses anywhere
    r"^\(?(?P<mark>both|all|together|male|female|boys?|girls?|man|woman|men|women|him|her|he|she|group|choir|duet|solo|"
    r"everyone|男|女|合|合唱|男女|齐|众|对白|白|旁白|rap)\)?\s*:\s*|"
    r"\((?P<aside>both|all|together|male|female|男|女|合|男女|齐|众)\)\s*",
    re.IGNORECASE,
)
_KINDS = {
    **dict.fromkeys("f female girl girls woman women her she 女".split(), "female"),
    **dict.fromkeys("m male boy boys man men him he 男".split(), "male"),
    **dict.fromkeys("d both all together duet 合 合唱 男女 齐 众".split(), "duet"),
    "bg": "background",
}


def split_singer(text: str) -> tuple[str, str, bool]:
    """Take marks of singers off a line.

    Returns:
        the words, the singer ("female", "male", "duet", "background", else the mark as it is; empty without one), and
        whether the mark holds for the lines after it, too.
    """
    if ":" not in text and "(" not in text:
        return text, "", False
    if letter := _ONE_LETTER.match(text):
        return text[letter.end() :], _KINDS[letter["mark"].lower()], True
    if voice := _VOICE.match(text):
        return text[voice.end() :], _KINDS.get(voice["mark"].lower(), voice["mark"].lower()), False
    marks = [found["mark"] or found["aside"] for found in _PERFORMER.finditer(text)]
    if not marks:
        return text, "", False
    singer = marks[0].lower()
    return _PERFORMER.sub("", text), _KINDS.get(singer, singer), False
