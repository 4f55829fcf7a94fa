"""What a recogniser writes that nobody sings: loops, words faster than a tongue, words in silence, subtitle credits.

Everything is judged by phrase, a few words long, and a repetition only by what the audio says of it: a chorus that is
sung five times is no loop.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pipeline.lyrics.line_text import split_words
from pipeline.lyrics.sounds import sound_key
from pipeline.song import Word

MIN_SEGMENT_LOGPROB = -1.0  # Whisper's own decoding takes such a segment for a failure (arXiv:2212.04356, 4.5)
MAX_LETTERS_PER_S = 40.0  # as NeMo Curator; the fastest line of songs at hand, French rap, has 32
MIN_VOICE_SHARE = 0.2  # of a phrase; heard phrases of songs at hand have 0.4 and more
MIN_LOOP_COUNT = 4  # as NeMo Curator: seen more than three times, here one right after the other
MIN_LOOP_VOICE_SHARE = 0.5  # of one turn of a loop
MAX_LOOP_WORDS = 10
STUCK_PHRASES, STUCK_WORDS = 3, 8  # ours: turns in a row of a phrase, of one or two words
MIN_PHRASE_WORDS = 3  # different ones
PHRASE_PAUSE_S = 0.5
MAX_PHRASE_WORDS = 8
_SENTENCE_END = (".", "!", "?", "。", "！", "？")

# What Whisper learned from subtitles and says where there is no speech. Only what no lyrics hold.
_CREDITS = re.compile(
    r"amara\.org|subtitles? (by|made)|subtitled by|captions? by|transcri(bed|ption) by|thanks? (you )?for watching"
    r"|like and subscribe|subscribe to (my|our|the) channel|see you in the next video|sous-titr(es|age)"
    r"|untertitel(ung)? (von|der|im|des)|subt[ií]tulos (por|realizados|de la)|legendas? (por|pela)|sottotitoli"
    r"|字幕(由|by|提供|志愿者|组|製作|制作)|请不吝点赞|明镜与点点|谢谢(大家)?观看|感谢(大家)?观看|下期再见|ご視聴ありがとう|시청해주셔서",
    re.IGNORECASE,
)

VoiceShare = Callable[[float, float], float]  # start and end in seconds -> share of it in which the voice sounds


def remove_hallucinations(
    words: Sequence[Word], logprobs: Sequence[float], voice_share: VoiceShare
) -> tuple[list[Word], dict[str, int]]:
    """Return the words that may be sung, and how many went for each reason.

    Args:
        words: heard words in time order; `line` is the segment they come from.
        logprobs: mean log-probability of every segment.
        voice_share: where the separated voice sounds.

    Returns:
        Words, and counts of "unsure", "credits", "loop", "fast" and "silent".
    """
    removed: dict[int, str] = {}
    for segment, logprob in enumerate(logprobs):
        positions = [k for k, word in enumerate(words) if word.line == segment]
        if logprob < MIN_SEGMENT_LOGPROB:
            removed |= dict.fromkeys(positions, "unsure")
            continue
        for phrase in split_phrases(words, positions):
            if reason := _judge_phrase([words[k] for k in phrase], voice_share):
                removed |= dict.fromkeys(phrase, reason)
        for turn in _find_turns([sound_key(words[k].text) for k in positions]):
            if not _is_sung([words[positions[k]] for k in turn], voice_share):
                removed |= {positions[k]: "loop" for k in turn if positions[k] not in removed}
    kept = [word for k, word in enumerate(words) if k not in removed]
    return kept, dict(Counter(removed.values()))


def is_stuck(text: str) -> bool:
    """Whether a text says the same few words again and again, as a decoder does that has lost its place.

    Three turns of a phrase can be a chorus: the window is heard again, and what says more counts.
    """
    keys = [sound_key(word) for word in split_words(text, "")]
    for size in range(1, MAX_LOOP_WORDS + 1):
        for start in range(len(keys) - size):
            is_phrase = len(set(keys[start : start + size])) >= MIN_PHRASE_WORDS
            if _count_turns(keys, start, size) >= (STUCK_PHRASES if is_phrase else STUCK_WORDS):
                return True
    return False


def split_phrases(words: Sequence[Word], positions: Sequence[int]) -> Iterator[list[int]]:
    """Cut positions of words into phrases: at pauses, at the end of sentences, and where they get long."""
    phrase: list[int] = []
    for k in positions:
        if phrase:
            before = words[phrase[-1]]
            ends = before.text.endswith(_SENTENCE_END) or words[k].start_s - before.end_s >= PHRASE_PAUSE_S
            if ends or len(phrase) == MAX_PHRASE_WORDS:
                yield phrase
                phrase = []
        phrase.append(k)
    if phrase:
        yield phrase


def _judge_phrase(phrase: Sequence[Word], voice_share: VoiceShare) -> str:
    if _CREDITS.search(" ".join(word.text for word in phrase)) or _CREDITS.search("".join(w.text for w in phrase)):
        return "credits"
    if _letters_per_s(phrase) > MAX_LETTERS_PER_S:
        return "fast"
    return "silent" if voice_share(phrase[0].start_s, phrase[-1].end_s) < MIN_VOICE_SHARE else ""


def _is_sung(turn: Sequence[Word], voice_share: VoiceShare) -> bool:
    is_voiced = voice_share(turn[0].start_s, turn[-1].end_s) >= MIN_LOOP_VOICE_SHARE
    return is_voiced and _letters_per_s(turn) <= MAX_LETTERS_PER_S


def _letters_per_s(words: Sequence[Word]) -> float:
    letters = sum(len(sound_key(word.text)) for word in words)
    return letters / max(words[-1].end_s - words[0].start_s, 1e-3)


def _find_turns(keys: Sequence[str]) -> Iterator[range]:
    """Yield every turn but the first of runs in which the same few words come MIN_LOOP_COUNT times in a row."""
    k = 0
    while k < len(keys):
        size, count = _longest_run(keys, k)
        if count < MIN_LOOP_COUNT:
            k += 1
            continue
        for turn in range(1, count):
            yield range(k + turn * size, k + (turn + 1) * size)
        k += count * size


def _longest_run(keys: Sequence[str], start: int) -> tuple[int, int]:
    """Return the length of the words that repeat from `start` on, and how often: the choice that covers most."""
    best = (1, 1)
    for size in range(1, MAX_LOOP_WORDS + 1):
        count = _count_turns(keys, start, size)
        if count >= MIN_LOOP_COUNT and size * count > best[0] * best[1]:
            best = (size, count)
    return best


def _count_turns(keys: Sequence[str], start: int, size: int) -> int:
    pattern = keys[start : start + size]
    count = 1
    while keys[start + count * size : start + (count + 1) * size] == pattern:
        count += 1
    return count
