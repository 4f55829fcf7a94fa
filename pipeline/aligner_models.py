"""CTC aligners by language, named `wav2vec2-<language>`: which hub repository each is.

Those of WhisperX 3.8 (`whisperx.alignment`). For the five languages where it takes a torchaudio bundle, a hub model of
the same kind, because a bundle is a pickle from a URL.
"""

_XLSR_53 = {
    "ar": "arabic",
    "de": "german",
    "el": "greek",
    "es": "spanish",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "ja": "japanese",
    "nl": "dutch",
    "pl": "polish",
    "pt": "portuguese",
    "ru": "russian",
    "zh": "chinese-zh-cn",
}
ALIGNER_REPOSITORIES = {
    f"wav2vec2-{language}": repository
    for language, repository in (
        {tag: f"jonatasgrosman/wav2vec2-large-xlsr-53-{name}" for tag, name in _XLSR_53.items()}
        | {
            "ca": "softcatala/wav2vec2-large-xlsr-catala",
            "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
            "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
            "en": "facebook/wav2vec2-base-960h",
            "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
            "gl": "ifrz/wav2vec2-large-xlsr-galician",
            "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
            "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
            "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
            "id": "cahya/wav2vec2-large-xlsr-indonesian",
            "ka": "xsway/wav2vec2-large-xlsr-georgian",
            "ko": "kresnik/wav2vec2-large-xlsr-korean",
            "lv": "jimregan/wav2vec2-large-xlsr-latvian-cv",
            "ml": "gvs/wav2vec2-large-xlsr-malayalam",
            "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
            "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
            "ro": "gigant/romanian-wav2vec2",
            "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
            "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
            "sv": "KBLab/wav2vec2-large-voxrex-swedish",
            "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
            "tl": "Khalsuu/filipino-wav2vec2-l-xls-r-300m-official",
            "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
            "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
            "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
            "vi": "nguyenvulebinh/wav2vec2-base-vi-vlsp2020",
        }
    ).items()
}
