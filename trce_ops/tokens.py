"""Token positions by the name under which other programs import them; see text/tokens.py."""

from .text.tokens import first_eot as first_eot
