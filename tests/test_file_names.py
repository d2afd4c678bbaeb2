"""What may be written into a 'filename_prefix', alike on every system."""

import pytest

from trce_ops.files.names import FileNameError, portable_name

KEPT = ["star", "no violence", "set/no-guns_2", "v1.5", "Ж星é", "%date%", ".hidden", "com", "console/null", "a" * 150]
REFUSED = [
    *("", " ", ".", "..", "...", "a/", "/a", "a//b", "./a", "../a", "a/../../b", "a/..", "~/../a", "....//a"),
    *("..\\a", "a\\..\\b", "C:\\a", "C:a", "\\\\server\\share\\a", "\\\\?\\C:\\a", "a:b", "a.", "a /b"),
    *("CON", "nul", "NUL.txt", "aux/a", "a/com1", "lpt9.x", "a\0b", "a\nb", "a\x1b[31m", "a\u202eb", "a\ud800"),
    *("a*", "a?", "<a>", "a|b", '"a"', "a" * 151, "星" * 60, "a/" * 5000 + "a", "a" * 10**6),
]


@pytest.mark.parametrize("name", KEPT)
def test_names_stay_as_they_are(name):
    assert portable_name(name) == name


def test_a_windows_separator_is_one_everywhere():
    assert portable_name("set\\no-guns") == "set/no-guns"


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name[:20]))
def test_other_names_are_refused_in_a_sentence(name):
    with pytest.raises(FileNameError, match="'filename_prefix' is .*; write ") as refused:
        portable_name(name)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 500
