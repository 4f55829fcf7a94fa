"""Lines of a lyrics file that no one sings: credits, tags, copyright, links, what the web page said around the words.

One rule per kind, in English and Chinese (and the commonest words of other languages), each needing a form that lyrics
do not have ("role: names", a copyright sign, a web address), so that no sung line is lost. What only looks odd is left
for the audio to decide.
"""

import re
from collections.abc import Iterable
from typing import Literal

MetadataReason = Literal["metadata", "credits", "url", "copyright", "provider"]

# Words of credits. Alone before a colon the first group is enough; the second also needs names with capitals after it.
_ROLES = frozenset(
    "lyricist lyricists composer composers composed composition arranger arrangers arranged arrangement producer "
    "producers produced production writer writers songwriter songwriters written vocalist performer performed "
    "engineer engineers engineered mixed mixing mastered mastering programming publisher publishers published "
    "publishing distributed distribution op sp isrc upc iswc copyright album artist artists translator "
    "translators translation translated transcribed subtitle subtitles uploaded lrc editor edited featuring bpm "
    "paroles musique interprète auteur compositeur letra compositor intérprete komponist interpret description "
    "desc instruments timbre phoneme phonemes a&r lyrics guitar guitars percussion keyboards cello violin capo tuning "
    "parolier paroliers auteurs compositeurs compositores autores escrita escrito escritor escritores productor "
    "productores productora testo testi komponisten texter textdichter produzent genre genres".split()
)
_LOOSE_ROLES = frozenset(
    "lyric words music author vocal vocals lead backing background singer singers bass drum drums piano keyboard "
    "keys synth string strings viola saxophone sax trumpet mix mixer master recorded recording studio executive "
    "co assistant label band title song track name year release released date language length duration key "
    "tempo source website feat ft director directed design cover photo cast música musica autor text "
    "musik style styles tag tags mood gender sung remixed co-written co-produced programmed".split()
)
_GLUE = frozenset("and by of on the all und et y par por von no & 1 2 3 4 s es".split()) | {""}
ROLE_WORDS = _ROLES | _LOOSE_ROLES | _GLUE
_ROLE_ZH = re.compile(  # longer names first; what remains of a head after them must be nothing
    r"(?![手师師人室棚者]$)(?:lrc|处理|處理|贡献|貢獻|作词|作詞|填词|填詞|作曲|谱曲|譜曲|词曲|詞曲|编曲|編曲|制作|製作|监制|監製|混音|母带|母帶|录音|錄音|缩混|縮混|后期|後期|出品|"
    r"发行|發行|企划|企劃|统筹|統籌|策划|策劃|原唱|翻唱|和声|和聲|和音|配唱|弦乐|弦樂|编写|編寫|吉他|贝斯|貝斯|键盘|鍵盤|钢琴|鋼琴|"
    r"小提琴|大提琴|二胡|古筝|笛子|萨克斯|口琴|合成器|版权|版權|宣传|宣傳|推广|营销|封面|设计|設計|文案|美工|字幕|翻译|翻譯|歌词|歌詞|"
    r"歌名|歌曲|歌手|专辑|專輯|演唱|主唱|人声|人聲|公司|厂牌|单位|来源|总监|總監|编辑|特别|鸣谢|导演|经纪|工作室|工程|助理|执行|音乐|音樂|"
    r"乐队|樂隊|编程|编排|时间|语种|流派|词|詞|曲|唱|鼓|手|师|師|人|室|棚|者)++"
)
_BARE_ROLE_ZH = re.compile(
    r"(?:作词|作詞|填词|填詞|作曲|词曲|詞曲|编曲|編曲|制作人|製作人|监制|監製|混音|母带|母帶|原唱|翻唱)(?:\s*[/&、]\s*\S{1,4})?\s+(?P<names>\S.{0,30})"
)
_BY_OTHERS = re.compile(  # "lyrics by" in other languages, guests; the names decide
    r"(?:letras?|paroles|songtext|liedtext|testo)(?: (?:de la chanson|de la canción|della canzone) .{1,60}?)?"
    r" (?:de|von|di|par|por) (?P<names>.{1,60})|\(?(?:feat|ft)\.? (?P<guests>[^()]{1,60})\)?",
    re.IGNORECASE,
)
_STYLE = re.compile(  # what music generators are told, chord sheets, tablature
    r"(?:style|style of music|tags|mood|energy|instruments?|vocals?|tempo|tuning|capo|key|bpm)\s*:"
    r"\s*(?=.*(?:,|\d|standard|\b[a-g]\b)).*|capo \d\w*(?: fret)?|[eBGDAE]\|[-\d|hpbsx/\\~^() ]{4,}",
    re.IGNORECASE,
)
_NUMBERING = re.compile(  # of lines, of pages; the end of the sheet
    r"\d{1,3}[.)]|\(?\d{10,}\)?|[-–—]+\s?(?:the )?(?:end|fin|完)\s?[-–—]+", re.IGNORECASE
)
_TAG = re.compile(  # a title may hold brackets of its own: "[ti:Night Walk [Live]]"
    r"\[(?P<key>[A-Za-z#_]{1,15})\s*:(?P<value>[^\]]*|(?<=\[(?i:ti|ar|al|au|by|re|ve):).*)\]"
)
_KNOWN_TAG = re.compile(
    r"\[(?:ti|ar|al|au|by|re|ve|la|lang|language|id|hash|total|sign|qq|offset|length|tool|#)\s*:.*\]", re.IGNORECASE
)
_NAME_TAGS = frozenset({"ti", "ar", "al", "au", "by", "title", "artist", "album", "author", "lyricist", "composer"})

_URL = re.compile(
    r"https?://|\bwww\.\w|\S@[\w-]+\.\w{2,}|(?:^|\s)@\w{3,}|\b[\w-]{2,}\.(?:com|org|net)\b(?=/|[\s).,]|$)|"
    r"\b[\w-]{2,}\.(?:info|io|tv|cn|jp|kr|de|fr|ru|br|app)(?:/|$)|"  # in mid line a missing blank: "toujours.de"
    r"^(?:instagram|facebook|twitter|youtube|tiktok|spotify|soundcloud|weibo|微博|公众号|微信)\s*[:@]",
    re.IGNORECASE,
)
_COPYRIGHT = re.compile(
    r"[©℗]|\([cp]\)\s*\d{4}|\ball rights (?:reserved|administered)|"
    r"\bcopyright(?:ed)?\b(?=\W*(?:\(c\)|\d{4}|by\b|:))|^copyright (?-i:[A-Z])|"
    r"\bnot for commercial use\b|^used (?:by|with) permission|unauthori[sz]ed (?:copying|use)|"
    r"版权所有|版權所有|著作权|著作權|[未不][经經得].{0,14}(?:许可|許可|授权|授權|翻唱|转载|使用)|翻版必究",
    re.IGNORECASE,
)
_SITES = re.compile(
    r"\b(?:musixmatch|lyricfind|azlyrics|metrolyrics|songmeanings|gracenote|petitlyrics|genius(?:\.com| lyrics)|"
    r"kkbox|utamap)\b|"
    r"qq音乐|网易云音乐|酷狗音乐|酷我音乐|虾米音乐|千千静听|咪咕音乐|百度音乐",
    re.IGNORECASE,
)
_PROVIDER = re.compile(
    r"lyrics (?:are )?(?:provided|powered|licensed|supplied|submitted|transcribed) (?:by|to) .*|"
    r"lyrics (?:courtesy of|found at|taken from|via) .*|"
    r"courtesy of .*(?:records|music|entertainment).*|by: .*|"
    r"(?:uploaded|submitted|synced|subbed|lrc) by\b.*|(?:posted|timed) by @?\w+|"
    r"thanks to .+ for .*(?:lyrics|correct).*",
    re.IGNORECASE,
)
_PROVIDER_ZH = re.compile(
    r".*歌[词詞](?:下载|纠错|制作|贡献|提供).*|.*歌[词詞](?:翻译)?(?:由.*提供|(?:来自|來自).*(?:网|音乐|用户|[a-z]).*)|"
    r"[由该].{0,15}(?:歌词|翻译|用户|网|音乐).{0,6}提供(?:歌词|翻译)?|由.{1,15}提供(?:歌词|翻译)|.*(?:lrc|求滚动)\s?歌词.*|"
    r"[此该本]?(?:歌曲|曲)?为?.{0,6}纯音乐(?:,?\s?(?:请|無|无).*)?|.*没有填词的?纯音乐.*|.*[暂暫][无無]歌[词詞].*|本歌曲来自.+",
    re.IGNORECASE,
)
_PAGE_FURNITURE = re.compile(
    r"\d+ ?contributors?.*|\d[\d.,]*k?\s?embed|embed(?:share.*)?|submit (?:lyrics|corrections?)|you might also like|"
    r"get tickets as low as.*|read more|translations?(?-i:[A-Z\u0400-\uffff].*)?|more on genius|"
    r"sign up (?:and|to) start annotating|how to format lyrics:?|(?:english|chinese) translations?|"
    r"(?:中文)?歌?[词詞]?翻[译譯]|"
    r"romani[sz](?:ed|ation)|romaji|pinyin|拼音|翻唱|原唱|伴奏|"
    r"(?:add|share|save) (?:to|on) (?:my )?(?:favou?rites|playlist|facebook|twitter|x)|"
    r"(?:report|correct|request|print|edit|copy|rate|view|download|share|translate) (?:a |an |these |this |the )?"
    r"(?:problem|error|lyrics?|corrections?|song lyrics|translation|pdf|mp3)|"
    r"(?:song )?lyrics?:?|song text|songtext|letra:?|paroles:?|歌[词詞]:?|"
    r"advertisement|see all|show more|sign up|log ?in",
    re.IGNORECASE,
)
_SHOW = re.compile(
    r"See (?!(?:You|Me|Him|Her|Them|Us|It|How|The|That|What|If|Life|Love)\b)[A-Z].* L(?:IVE|ive)(?:Get tickets.*)?|"
    r"(?:[A-Z0-9]\S*\s)+Lyrics"
)

_CHORD = r"[A-G][#b♯♭]?(?:m|min|maj|dim|aug|sus|add)?\d{0,2}(?:sus\d|add\d)?(?:/[A-G][#b]?)?"
_CHORDS = re.compile(rf"(?:\| ?)?{_CHORD}(?:[\s|–-]+{_CHORD})+(?: ?\|)?")
_CHORD_SIGN = re.compile(r"[A-G](?:[#b♯♭\d/]|m|maj|sus|dim|aug|add)|\|")  # "A B C" and "B A D" are sung
_NAME_JOIN = re.compile(r"\s*(?:[/&,;|·、+]|\b(?:and|feat\.?|ft\.?|with|et|y|und)\b|\S{1,6}\s*:)\s*", re.IGNORECASE)
_RIGHTS_WORDS = re.compile(
    r"\([cp]\)|[©℗]|\bcopyright\b|\b(?:19|20)\d\d\b|"
    r"\b(?:music|records?|publishing|llc|inc|ltd|all rights.*|under .*)\b.*",
    re.IGNORECASE,
)
_SMALL_WORDS = frozenset("the of a an and at in on for to de la le du von van feat. ft. &".split())
_DECORATION = " ()[]{}【】<>-–—*~#|·•♪\"'"
# What a rule needs to match at all, and is quick to look for.
_URL_SIGN = re.compile("[.:@]")
_COPYRIGHT_SIGN = re.compile(r"[©℗版著经經翻]|[(crpu](?:[cp]\)|ight|ommercial|ermission|nauthori|opyright)")
_SITE_SIGN = re.compile(
    "[lmgku音静](?:yric|usixmatch|etrolyrics|racenote|enius|kbox|tamap|乐|听)|azlyrics|meanings|petitlyrics"
)
MAX_HEAD_CHARS = 50
MAX_NAME_WORDS = 8


_BY = re.compile(r"\s+by\s+", re.IGNORECASE)
_BY_OR_AT = re.compile(r"\s+(?:by|at)\s+", re.IGNORECASE)
_JOINS_NAMES = re.compile(r"\s(?:[-–—|~]+|by)\s", re.IGNORECASE)
_DASHED = re.compile(r"\s+[-–—|~]+\s+")


def classify_metadata(line: str) -> MetadataReason | None:
    """Return why a tidy line is not sung, or None if it may be."""
    bare = line.strip(_DECORATION)
    return _classify(line) or (_classify(bare) if bare != line else None)


def is_known_tag(line: str) -> bool:
    """Whether a line is a tag of LRC's head, whatever its value looks like."""
    return line.startswith("[") and _KNOWN_TAG.fullmatch(line) is not None


def _classify(line: str) -> MetadataReason | None:
    if (
        _TAG.fullmatch(line)
        or is_known_tag(line)
        or _is_chords(line)
        or _STYLE.fullmatch(line)
        or _NUMBERING.fullmatch(line)
    ):
        return "metadata"
    lower = line.lower()
    if _URL_SIGN.search(line) and _URL.search(line):
        return "url"
    if _COPYRIGHT_SIGN.search(lower) and _COPYRIGHT.search(line):
        return "copyright"
    if _PROVIDER.fullmatch(line) or _PAGE_FURNITURE.fullmatch(line) or _SHOW.fullmatch(line):
        return "provider"
    if not line.isascii() and _PROVIDER_ZH.fullmatch(line):
        return "provider"
    if _SITE_SIGN.search(lower) and _SITES.search(line):
        return "provider"
    return "credits" if _find_credited(line) is not None else None


def _is_chords(line: str) -> bool:
    return _CHORDS.fullmatch(line) is not None and _CHORD_SIGN.search(line) is not None


def find_names(line: str) -> set[str]:
    """Return the folded names (of people, bands, songs) that a metadata line mentions."""
    if tag := _TAG.fullmatch(line):
        names = tag["value"].replace("[", "(").replace("]", ")") if tag["key"].lower() in _NAME_TAGS else ""
    elif _COPYRIGHT.search(line):
        names = _RIGHTS_WORDS.sub(" ", line)
    else:
        names = _find_credited(line.strip(_DECORATION)) or ""
    parts = {fold_name(part) for part in [names, *_NAME_JOIN.split(names)]}
    return {part for part in parts if len(part) > 1 and len(part.split()) <= MAX_NAME_WORDS}


def may_be_title_line(line: str) -> bool:
    """Whether a line has a dash between blanks or a "by": others need no closer look."""
    return _JOINS_NAMES.search(line) is not None


def is_title_line(line: str, names: Iterable[str]) -> bool:
    """Whether `line` is "Title - Artist" or "Title by Artist", one of them known from elsewhere."""
    pairs = [_split_dashed(line), _BY.split(line, maxsplit=1)]
    pairs = [pair for pair in pairs if len(pair) == 2]
    known = {fold_name(name) for name in names} - {""} if pairs else set()
    return any(fold_name(part) in known for pair in pairs for part in pair)


def looks_like_title_line(line: str) -> bool:
    """Whether `line` has the form "Title - Artist" with capitals as in names: a hint, no proof."""
    pair = _split_dashed(line)
    return len(pair) == 2 and all(_is_name(part) for part in pair)


_LYRICS_WORDS = frozenset("lyrics lyric lyrics: letra paroles songtext text testo tekst words 歌词 歌詞 by".split())


def is_name_head(line: str, given_names: set[str], *, is_first: bool) -> bool:
    """Whether a line at the head of a page is the artist, or the title with "lyrics" beside it, of given folded names.

    A title alone may be sung; it counts where the artist stands on its line as well.
    """
    folded = fold_name(line)
    words = folded.split()
    bare = " ".join(word for word in words if word not in _LYRICS_WORDS)
    if not bare or len(bare) > 120:
        return False
    if bare in given_names:
        return len(bare.split()) < len(words)
    return is_first and any(bare == f"{a} {b}" for a in given_names for b in given_names if a != b)


def fold_name(name: str) -> str:
    """Reduce a name to what is compared: lower-case words without punctuation."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _find_credited(line: str) -> str | None:
    """Return the names in a credit line, or None if it is none."""
    head, colon, names = line.partition(":")
    if colon and len(head) <= MAX_HEAD_CHARS:
        strictness = _rate_roles(head)
        if strictness == "sure" or strictness == "loose" and (not names.strip() or _are_names(names)):
            return names
    if not line.isascii() and (bare := _BARE_ROLE_ZH.fullmatch(line)):
        return bare["names"]
    if others := _BY_OTHERS.fullmatch(line):
        names = others["names"] or others["guests"]
        return names if _are_names(names) else None
    by = _BY_OR_AT.split(line, maxsplit=1)
    return by[1] if len(by) == 2 and len(by[0]) <= MAX_HEAD_CHARS and _rate_roles(by[0]) and _are_names(by[1]) else None


def _rate_roles(head: str) -> Literal["sure", "loose"] | None:
    """Say whether the words before a colon or a "by" are all words of credits."""
    words = [word for word in re.split(r"[\s/,+、()\-.]+", head.lower()) if word not in _GLUE]
    is_zh = [_ROLE_ZH.fullmatch(word) is not None for word in words]
    if not words or not all(
        zh or word in _ROLES or word in _LOOSE_ROLES for zh, word in zip(is_zh, words, strict=True)
    ):
        return None
    return "sure" if any(zh or word in _ROLES for zh, word in zip(is_zh, words, strict=True)) else "loose"


def _are_names(text: str) -> bool:
    parts = [part for part in _NAME_JOIN.split(text.strip(" .:")) if part]
    return bool(parts) and all(_is_name(part) for part in parts)


def _is_name(text: str) -> bool:
    """Whether every word begins with a capital, a digit or a letter of a script without case."""
    words = [word.lstrip("\"'([") for word in text.split() if word.lower() not in _SMALL_WORDS]
    return 0 < len(words) <= MAX_NAME_WORDS and all(word[:1].isalnum() and not word[0].islower() for word in words)


def _split_dashed(line: str) -> list[str]:
    return [part for part in _DASHED.split(line, maxsplit=1) if 0 < len(part) <= 60]
