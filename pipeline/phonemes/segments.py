"""Chinese word segmentation for phonemes, without jieba's shared cache file."""

import logging
from functools import cache
from typing import Any


@cache
def load_tokenizer() -> Any:
    """Return a tokenizer that has read its dictionary; the cache in the temp folder could be anyone's."""
    import jieba  # loads 350,000 words; only Chinese songs pay for it

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


@cache
def load_tagger() -> Any:
    """Return the part-of-speech tagger on that tokenizer."""
    from jieba.posseg import POSTokenizer

    return POSTokenizer(load_tokenizer())


def tag_words(text: str) -> list[tuple[str, str]]:
    """Return the words of `text` and their parts of speech."""
    return [(pair.word, pair.flag) for pair in load_tagger().lcut(text)]


def split_search(word: str) -> list[str]:
    """Return the words found inside a word, short ones first."""
    return sorted(load_tokenizer().cut_for_search(word), key=len)
