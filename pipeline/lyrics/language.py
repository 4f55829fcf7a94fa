"""Which language lyrics are written in: by their script, its telling letters, and the commonest words of a language."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from pipeline.lyrics.language_names import UnknownLanguageError, language_code

MIN_SCRIPT_SHARE = 0.2  # of the letters: a Chinese song may have an English chorus, hardly the other way round
MIN_FUNCTION_SHARE = 0.12  # of the words; real lyrics at hand reach 0.2 to 0.4 in their language, 0.1 at most in others
MIN_LEAD = 1.3  # over the second language
LETTER_WEIGHT = 0.5  # of a word with a letter that few languages have, against a function word
MAX_FOREIGN_SHARE = 0.15  # of the words, with letters that the language has not
MIN_VIETNAMESE_SHARE = 0.2  # of the words; Vietnamese has 0.5 and more, no other language any

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
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "TIBETAN": "bo",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "ETHIOPIC": "am",
}
# Letters that one language of a script has and the first one of it has not, most telling first; a share of the
# letters of the script is asked for, so that a name or a quotation does not decide.
_TELLING_LETTERS = {
    "ru": (("be", "ў"), ("uk", "їєґ"), ("kk", "қғұәһ"), ("mn", "өү"), ("sr", "ћђљњџј"), ("mk", "ѓќѕ"), ("uk", "і")),
    "ar": (("ur", "ٹڈڑںےۓہھ"), ("ps", "ټډښړځ"), ("ku", "ۆێڵڕە"), ("ug", "ېۇۈۋ")),
    "hi": (("mr", "ळ"),),
    "bn": (("as", "ৰৱ"),),
}
MIN_TELLING_SHARE = 0.01
_PERSIAN, _ARABIC = "پچژگیک", "ةىأإيكؤ"
_BULGARIAN_HARD, _RUSSIAN = "ъ", "ыэё"

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
    "nl": "ik je en de het een niet van is dat in op te zijn voor met die wat maar we jij mij hij er aan als ook nog "
    "naar om mijn jou geen",
    "af": "ek jy nie die is en het my 'n vir van in dat met op sal hulle ons wat so net hy sy jou",
    "sv": "jag du och det att en är på i som inte för med vi har mig dig den till kan vill när om så här där min nu "
    "av mitt ett ska",
    "da": "jeg du og det at en er på i som ikke for med vi har mig dig den til kan vil når om så her der min af hvad "
    "nu mit noget",
    "no": "jeg du og det at en er på i som ikke for med vi har meg deg den til kan vil når om så her der min av hva "
    "nå mitt noe",
    "pl": "i w nie na się z to że jest a ja jak mnie ty do mi co ci o tak już za mój po dla gdy czy ale bo ten wciąż "
    "tylko przy",
    "cs": "a se já že v na je to ne si mi tě mě jsem co jak ty když už tak s z do jen jsi kde být mám",
    "sk": "a sa ja že v na je to nie si mi ťa ma som čo ako ty keď už tak s z do len kde byť mám",
    "hr": "i je u na se da ne ti mi ja za sam si što kao od nije moje tvoje kad sve bez samo mene tebe još ću",
    "ro": "și să nu în te mi de la ce eu tu cu pe un o mă e sunt că din mai tot iar când dar mea vreau",
    "hu": "a az és nem hogy egy van én te ha már még csak is el mint ez meg kell vagy mert nekem veled minden",
    "fi": "ja on ei se en minä sinä mä sä kun niin että mun sun oon olen vain nyt mutta jos kuin mua sua ole vielä",
    "tr": "bir ve bu ben sen de da ne için gibi çok beni seni bana sana var yok mi her daha ki ama değil benim senin",
    "id": "aku kau yang di dan ku mu ini itu tak tidak dengan untuk dari ke kita akan kamu bila ada saja jangan pada "
    "lagi takkan kan telah",
    "tl": "ang ng sa na ko mo ako ikaw at hindi ay mga ka kung pa lang di si kita ba nang",
    "vi": "anh em là và không có một yêu trong người những cho đã ta của còn như khi mình về nhau đi này tình",
    "ca": "amb és jo em et per meva seva quan tot aquest sóc això però molt dels als vull",  # no word of Spanish
}
_AMBIGUOUS = frozenset({"hr"})  # written Croatian, Serbian and Bosnian are one to these words
_FUNCTION_SETS = {code: frozenset(words.split()) for code, words in _FUNCTION_WORDS.items()}
_CODES_OF_WORD: dict[str, tuple[str, ...]] = {
    word: tuple(code for code, known in _FUNCTION_SETS.items() if word in known)
    for word in {word for known in _FUNCTION_SETS.values() for word in known}
}
_LETTERS_OF = {
    "pl": "łąęśźżćń",
    "tr": "ğışİ",
    "cs": "řěů",
    "sk": "ľĺŕťô",
    "sv": "åäö",
    "da": "åæø",
    "no": "åæø",
    "fi": "äö",
    "hu": "őű",
    "ro": "șțăţş",
    "pt": "ãõ",
    "es": "ñ¿¡",
    "de": "ßüäö",
    "hr": "đć",
    "ca": "ŀ",
}
_CODES_OF_LETTER: dict[str, tuple[str, ...]] = {
    letter: tuple(code for code, letters in _LETTERS_OF.items() if letter in letters)
    for letter in {letter for letters in _LETTERS_OF.values() for letter in letters}
}
_VIETNAMESE = re.compile("[đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]")
_FOREIGN = re.compile("[čšžćđřěůľťďňłąęśźżńğışőűșțăþðāēīū]")
_WITHOUT_FOREIGN = frozenset("en es fr de it pt nl af sv da no fi id tl ca".split())
_WORDS = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")

_SCRIPTS_OF_LANGUAGE = {
    "zh": ("han",),
    "ja": ("kana", "han"),
    "ko": ("hangul",),
    "sr": ("cyrillic", "latin"),
    "kk": ("cyrillic", "latin"),
    "uz": ("latin", "cyrillic"),
    "az": ("latin", "cyrillic"),
    "ku": ("latin", "arabic"),
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk", "mn"), ("cyrillic",)),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ug"), ("arabic",)),
    **dict.fromkeys(("he", "yi"), ("hebrew",)),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), ("devanagari",)),
    **dict.fromkeys(("bn", "as"), ("bengali",)),
    "el": ("greek",),
    "th": ("thai",),
    "lo": ("lao",),
    "km": ("khmer",),
    "my": ("burmese",),
    "pa": ("gurmukhi", "arabic"),
    "gu": ("gujarati",),
    "ta": ("tamil",),
    "te": ("telugu",),
    "kn": ("kannada",),
    "ml": ("malayalam",),
    "si": ("sinhala",),
    "bo": ("tibetan",),
    "ka": ("georgian",),
    "hy": ("armenian",),
    "am": ("ethiopic",),
}


def stated_language(name: str | None) -> str:
    """Return the ISO 639-1 code of a language as a file or tag names it, or "" where nobody knows such a language."""
    try:
        return language_code(name or "")
    except UnknownLanguageError:
        return ""


def scripts_of_language(code: str) -> tuple[str, ...]:
    """Return the scripts that a language is written in, usual first; Latin where nothing else is known."""
    return _SCRIPTS_OF_LANGUAGE.get(code, ("latin",))


def identify_text(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or "" where neither script nor words decide."""
    if not text.isascii():
        scripts = Counter(filter(None, map(_script_name, text)))
        num_letters = sum(scripts.values())
        for script, code in _SCRIPTS.items():
            if scripts[script] > MIN_SCRIPT_SHARE * num_letters:
                return _tell_apart(code, text, scripts[script])
    return _identify_latin(text)


@lru_cache(maxsize=20_000)
def _script_name(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""


def _tell_apart(code: str, text: str, num_letters: int) -> str:
    """Return which language of a script it is, by letters that the others have not."""
    lower = text.casefold()
    counts = Counter(lower)

    def share(letters: str) -> float:
        return sum(counts[letter] for letter in letters) / num_letters

    for other, letters in _TELLING_LETTERS.get(code, ()):
        is_russian = code == "ru" and share(_RUSSIAN) > share(letters)
        if share(letters) >= MIN_TELLING_SHARE and not is_russian:
            return other
    if code == "ru" and share(_BULGARIAN_HARD) >= MIN_TELLING_SHARE and not share(_RUSSIAN):
        return "bg"
    if code == "ar" and share(_PERSIAN) > share(_ARABIC):
        return "fa"
    return code


def _identify_latin(text: str) -> str:
    words = _WORDS.findall(text.casefold().replace("\u2019", "'"))
    if not words:
        return ""
    if not text.isascii() and sum(_VIETNAMESE.search(word) is not None for word in words) >= MIN_VIETNAMESE_SHARE * len(
        words
    ):
        return "vi"
    scores: dict[str, float] = dict.fromkeys(_FUNCTION_SETS, 0.0)
    for word in words:
        for code in _CODES_OF_WORD.get(word, ()):
            scores[code] += 1.0
        if not word.isascii():
            for code in {code for letter in word for code in _CODES_OF_LETTER.get(letter, ())}:
                scores[code] += LETTER_WEIGHT
    functions = {code: sum(word in known for word in words) / len(words) for code, known in _FUNCTION_SETS.items()}
    ranked = sorted(((score / len(words), code) for code, score in scores.items()), reverse=True)[:2]
    (best, code), (second, other) = ranked
    if {code, other} == {"da", "no"}:
        return _tell_danish(words) if functions[code] >= MIN_FUNCTION_SHARE else ""
    if code in _WITHOUT_FOREIGN and sum(_FOREIGN.search(word) is not None for word in words) > MAX_FOREIGN_SHARE * len(
        words
    ):
        return ""
    is_sure = functions[code] >= MIN_FUNCTION_SHARE and best >= MIN_LEAD * second
    return code if is_sure and code not in _AMBIGUOUS else ""


_DANISH = frozenset("mig dig af hvad nu noget blev bliver mit dit sig efter".split())
_NORWEGIAN = frozenset("meg deg av hva nå noe ble blir mitt ditt seg etter".split())


def _tell_danish(words: list[str]) -> str:
    danish, norwegian = (sum(word in known for word in words) for known in (_DANISH, _NORWEGIAN))
    if danish == norwegian:
        return ""
    return "da" if danish > norwegian else "no"
