"""Words in which nearest neighbours are searched; harmful ones too, because those are what is to be erased."""

import re
from pathlib import Path

_TEXT = (Path(__file__).parent / "data" / "words.txt").read_text(encoding="utf-8")
_LISTED = re.sub(r"^#.*", "", _TEXT, flags=re.MULTILINE)
WORDS = tuple(" ".join(word.split()) for word in _LISTED.split(",") if word.strip())
