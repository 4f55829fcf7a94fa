"""How often the encoding of a text is told right, on made files of eight lines in every encoding and language.

`python -m pipeline.bench_encodings` prints a line for each encoding, language and source, and JSON at the end; chardet
and charset-normalizer are measured on the same files where they are installed. Texts come from other packages
(`pipeline.encoding_texts`), and what is missing is said: `pip install django wordfreq chardet`.
"""

import argparse
import importlib
import importlib.util
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.encoding_texts import SOURCES, SourceMissingError, make_files
from pipeline.lyrics.encoding import LyricsError, clean_text, read_text

logger = logging.getLogger(__name__)

_WEST = "fr es pt it de nl ca da no sv fi is ga af eu gl"
_CENTRAL = "pl cs sk hu hr sl bs sr-latn sq"
_UNICODE = "fr es pt it de pl cs hu ro tr lt lv et ru uk bg sr el he ar fa th vi ja ko zh zh-hant hi bn ta ka hy km my"
PAIRS: tuple[tuple[str, str], ...] = (  # encodings, languages
    ("utf_8 utf_8_sig utf_16 utf_16_be_sig utf_16_le utf_16_be", _UNICODE),
    ("cp1252 latin_1 iso8859_15 mac_roman cp850", _WEST),
    ("cp1250 iso8859_2 cp852", f"{_CENTRAL} ro"),
    ("mac_latin2", _CENTRAL),
    ("cp1257 iso8859_13 iso8859_4 cp775", "lt lv et"),
    ("cp1251 iso8859_5 mac_cyrillic", "ru uk be bg mk sr"),
    ("koi8_r cp866", "ru bg"),
    ("koi8_u cp866", "uk"),
    ("cp1253 iso8859_7 mac_greek cp737", "el"),
    ("cp1254 iso8859_9 mac_turkish cp857", "tr"),
    ("cp1255 iso8859_8 cp862", "he"),
    ("cp1256", "ar fa ur"),
    ("iso8859_6 cp720", "ar"),
    ("cp874 tis_620 iso8859_11", "th"),
    ("cp1258", "vi"),
    ("cp932 shift_jis euc_jp iso2022_jp", "ja"),
    ("euc_kr cp949 johab iso2022_kr", "ko"),
    ("gb2312 gbk gb18030 hz", "zh"),
    ("big5 cp950 big5hkscs gbk", "zh-hant"),
)
Detect = Callable[[bytes], tuple[str | None, bool]]  # the text, and whether it is doubtful


def _detect_ours(data: bytes) -> tuple[str | None, bool]:
    try:
        read = read_text(data)
    except LyricsError:
        return None, True
    return read.text, bool(read.warnings)


def _detect_with(package: str) -> Detect:
    """Return the detector of a package as its documentation calls it; raises SourceMissingError."""
    if importlib.util.find_spec(package) is None:
        raise SourceMissingError(f"{package} is not installed")
    module: Any = importlib.import_module(package)

    def detect(data: bytes) -> tuple[str | None, bool]:
        if package == "chardet":
            name = module.detect(data)["encoding"]
        else:
            best = module.from_bytes(data).best()
            name = best.encoding if best else None
        try:
            return (clean_text(data.decode(name)) if name else None), False
        except (UnicodeDecodeError, LookupError):
            return None, False

    return detect


def measure_encodings(num_files: int, rivals: Sequence[str] = (), encodings: Sequence[str] = ()) -> dict[str, Any]:
    """Measure each pair of encoding and language on made files of each source.

    Args:
        num_files: of each pair and source.
        rivals: packages that are measured on the same files, "chardet" and "charset_normalizer".
        encodings: only these; all where empty.

    Returns:
        missing: why a source or rival was left out. pairs: for each of them encoding, language, source, files, and for
        each detector the share that is right (`NAME`); of ours the doubtful among right and wrong ones (`right_marked`,
        `wrong_marked`, counts). ms_per_file: for each detector, CPU time.
    """
    detectors: dict[str, Detect] = {"ours": _detect_ours}
    missing: list[str] = []
    for rival in rivals:
        try:
            detectors[rival] = _detect_with(rival)
        except SourceMissingError as error:
            missing.append(str(error))
    spent = dict.fromkeys(detectors, 0.0)
    rows: list[dict[str, Any]] = []
    for source in SOURCES:
        for encoding, language in _list_pairs(encodings):
            try:
                files = list(make_files(encoding, language, source, num_files))
            except SourceMissingError as error:
                missing.append(f"{error}: no files of {source}")
                break
            if not files:
                continue
            row: dict[str, Any] = {"encoding": encoding, "language": language, "source": source, "files": len(files)}
            for name, detect in detectors.items():
                started_s = time.process_time()
                found = [detect(data) for _, data in files]
                spent[name] += time.process_time() - started_s
                are_right = [text == wanted for (text, _), (wanted, _) in zip(found, files, strict=True)]
                row[name] = round(sum(are_right) / len(files), 4)
                if name == "ours":
                    marked = Counter(right for right, (_, doubt) in zip(are_right, found, strict=True) if doubt)
                    row |= {"right_marked": marked[True], "wrong_marked": marked[False]}
            rows.append(row)
            logger.info("%s", " ".join(f"{key}={value}" for key, value in row.items()))
    total = max(sum(row["files"] for row in rows), 1)
    return {"missing": missing, "pairs": rows, "ms_per_file": {name: 1e3 * s / total for name, s in spent.items()}}


def _list_pairs(encodings: Sequence[str]) -> Iterator[tuple[str, str]]:
    for names, languages in PAIRS:
        for name in names.split():
            if not encodings or name in encodings:
                yield from ((name, language) for language in languages.split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--files", type=int, default=250, help="of each encoding, language and source (default: 250)")
    parser.add_argument("--rivals", nargs="*", default=[], metavar="PACKAGE", help="chardet, charset_normalizer")
    parser.add_argument("--encodings", nargs="*", default=[], help="only these (default: all)")
    settings = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    found = measure_encodings(settings.files, settings.rivals, settings.encodings)
    for line in found["missing"]:
        logger.info("skipped: %s", line)
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
