"""What a terminal shows of names that somebody else has chosen."""

import logging

import pytest

from jobs.command import _LogFormatter, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("song.mp3", "song.mp3"),
        ("Grüße 你好 שלום \u200d", "Grüße 你好 שלום \u200d"),
        ("a\n12:00:00 5 of 5 songs, all is well", "a\\n12:00:00 5 of 5 songs, all is well"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("gnp\u202e3pm", "gnp\\u202e3pm"),
        ("\x9b31m\x85\u2028", "\\x9b31m\\x85\\u2028"),
        ("\udce4", "\\udce4"),
    ],
)
def test_a_name_stays_on_its_line(text, shown):
    assert printable(text) == shown


def test_a_log_line_is_one_line_and_a_traceback_has_its_own():
    record = logging.LogRecord("jobs", logging.INFO, "", 0, "%d of %d: %s", (1, 2, "a\r\nerror: forged"), None)
    assert _LogFormatter("%(message)s").format(record) == "1 of 2: a\\r\\nerror: forged"
    try:
        raise ValueError("x")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert len(_LogFormatter("%(message)s").format(record).splitlines()) > 2
