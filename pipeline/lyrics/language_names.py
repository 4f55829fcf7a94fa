"""What manifests call languages, as ISO 639-1 codes: names, longer codes, and codes with a script or region.

Sources: ISO 639-1, ISO 639-2 (both forms), BCP 47; English names as Whisper has them.
"""

import difflib
import functools
import re

# ISO 639-1, and one of ISO 639-2 that Whisper sings in and that has no shorter code.
CODES = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu haw".split()
)
_NAMES = {
    "af": "afr afrikaans",
    "am": "amh amharic",
    "ar": "ara arabic العربية",
    "az": "aze azerbaijani",
    "be": "bel belarusian",
    "bg": "bul bulgarian български",
    "bn": "ben bengali bangla",
    "bo": "bod tib tibetan",
    "br": "bre breton",
    "bs": "bos bosnian",
    "ca": "cat catalan català valencian",
    "cs": "ces cze czech čeština",
    "cy": "cym wel welsh",
    "da": "dan danish dansk",
    "de": "deu ger german deutsch",
    "el": "ell gre greek ελληνικά",
    "en": "eng english",
    "es": "spa spanish español castellano castilian",
    "et": "est estonian",
    "eu": "eus baq basque euskara",
    "fa": "fas per persian farsi فارسی",
    "fi": "fin finnish suomi",
    "fo": "fao faroese",
    "fr": "fra fre french français",
    "ga": "gle irish gaeilge",
    "gd": "gla gaelic",
    "gl": "glg galician galego",
    "gu": "guj gujarati",
    "ha": "hau hausa",
    "haw": "hawaiian",
    "he": "heb iw hebrew עברית",
    "hi": "hin hindi हिन्दी",
    "hr": "hrv croatian hrvatski",
    "ht": "hat haitian",
    "hu": "hun hungarian magyar",
    "hy": "hye arm armenian",
    "id": "ind in indonesian",
    "is": "isl ice icelandic íslenska",
    "it": "ita italian italiano",
    "ja": "jpn japanese 日本語",
    "jv": "jav jw javanese",
    "ka": "kat geo georgian",
    "kk": "kaz kazakh",
    "km": "khm khmer",
    "kn": "kan kannada",
    "ko": "kor korean 한국어",
    "la": "lat latin",
    "lb": "ltz luxembourgish",
    "lo": "lao",
    "lt": "lit lithuanian",
    "lv": "lav latvian",
    "mg": "mlg malagasy",
    "mi": "mri mao maori",
    "mk": "mkd mac macedonian",
    "ml": "mal malayalam",
    "mn": "mon mongolian",
    "mr": "mar marathi",
    "ms": "msa may malay",
    "mt": "mlt maltese",
    "my": "mya bur burmese myanmar",
    "ne": "nep nepali",
    "nl": "nld dut dutch nederlands flemish",
    "no": "nor nob nno nb nn norwegian norsk nynorsk bokmål",
    "oc": "oci occitan",
    "pa": "pan punjabi panjabi",
    "pl": "pol polish polski",
    "ps": "pus pashto",
    "pt": "por portuguese português",
    "ro": "ron rum mo romanian română moldavian",
    "ru": "rus russian русский",
    "sa": "san sanskrit",
    "si": "sin sinhala",
    "sk": "slk slo slovak",
    "sl": "slv slovenian slovene",
    "sn": "sna shona",
    "so": "som somali",
    "sq": "sqi alb albanian",
    "sr": "srp sh serbian",
    "su": "sun sundanese",
    "sv": "swe swedish svenska",
    "sw": "swa swahili",
    "ta": "tam tamil",
    "te": "tel telugu",
    "tg": "tgk tajik",
    "th": "tha thai ไทย",
    "tl": "tgl fil tagalog filipino",
    "tr": "tur turkish türkçe",
    "uk": "ukr ukrainian українська",
    "ur": "urd urdu",
    "uz": "uzb uzbek",
    "vi": "vie vietnamese",
    "yi": "yid ji yiddish",
    "yo": "yor yoruba",
    "zh": "zho chi cmn yue wuu hak mandarin chinese cantonese taiwanese hokkien 中文 汉语 普通话 國語 国语 粤语 粵語",
    "zu": "zul zulu",
    "": "und mul mis zxx auto unknown instrumental none",  # nothing is said: what is sung decides
}
_MAX_CODE_LETTERS = 3
_CODE_OF = {name: code for code, names in _NAMES.items() for name in names.split()}


class UnknownLanguageError(ValueError):
    """A language that is named in no way known here."""


@functools.lru_cache(maxsize=1_024)  # a manifest says the same few again and again
def language_code(name: str) -> str:
    """Return the ISO 639-1 code for "English", "zh-CN", "pt_BR", "deu" and so on; "" where `name` says nothing.

    Raises:
        UnknownLanguageError: no such language, or more than one.
    """
    plain = re.sub(r"\(.*?\)", "", name).strip().casefold()
    if not plain:
        return ""
    for part in (plain, re.split("[-_]", plain)[0]):  # zh-Hant-TW
        if part in _CODE_OF or part in CODES:
            return _CODE_OF.get(part, part)
    words = re.split(r"[\W_]+", plain)
    named = {_CODE_OF[word] for word in words if len(word) > _MAX_CODE_LETTERS and _CODE_OF.get(word)}
    if len(named) == 1:  # Brazilian Portuguese
        return named.pop()
    near = [] if named else difflib.get_close_matches(plain, _CODE_OF, 1)
    advice = f"; did you mean {near[0]!r}?" if near else "; write one ISO 639-1 code, as en, or leave it empty"
    raise UnknownLanguageError(f"language {name[:80]!r} is not known{advice}")
