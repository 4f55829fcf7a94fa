"""Which language lyrics are written in, by their script, and for Latin script by its commonest function words."""

import re
import unicodedata
from collections import Counter

MIN_SCRIPT_SHARE = 0.2  # of the letters: a Chinese song may have an English chorus, hardly the other way round
MIN_FUNCTION_SHARE = 0.12  # of the words; real lyrics at hand reach 0.2 to 0.4 in their language, 0.1 at most in others
MIN_LEAD = 1.3  # over the second language

_SCRIPTS = {  # in the order of precedence: kana and Hangul are sure signs, Han alone is Chinese
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "DEVANAGARI": "hi",
}
_FUNCTION_WORDS = {
    "en": "the and you to i a my me in of it is that on your for this be with all we so no but not are what can i'm "
    "don't it's was will when just like know",
    "es": "de la que el en y no a los se me un por con mi tu una lo para te es yo si como más las del ya al sin",
    "fr": "je de la le et les tu à que pas un des est dans pour en une mon on qui c'est mais ma ne sur il du au elle "
    "moi toi plus me te j'ai",
    "de": "ich und die der das du nicht ist in mir ein mich es zu so den wir dich auf mein dein wie was von mit bin "
    "hab doch nur wenn eine",
    "it": "che di e la il non un a mi è per ti in sono una con te io ma come lo se più mio le tu al del",
    "pt": "que de eu o e a não me você um é do da meu se no em uma pra te mas minha por com os na só mais tu",
}
_FUNCTION_SETS = {code: frozenset(words.split()) for code, words in _FUNCTION_WORDS.items()}


def identify_text(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or "" where neither script nor words decide."""
    scripts = Counter(unicodedata.name(char, "").split(" ")[0] for char in text if char.isalpha())
    num_letters = sum(scripts.values())
    for script, code in _SCRIPTS.items():
        if scripts[script] > MIN_SCRIPT_SHARE * num_letters:
            return code
    words = re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*", text.casefold().replace("\u2019", "'"))
    if not words:
        return ""
    shares = sorted(
        ((sum(word in known for word in words) / len(words), code) for code, known in _FUNCTION_SETS.items()),
        reverse=True,
    )
    (best, code), (second, _) = shares[:2]
    return code if best >= MIN_FUNCTION_SHARE and best >= MIN_LEAD * second else ""
