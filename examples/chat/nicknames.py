"""Nicknames: what may be one, and which of them look the same.

A name has letters, digits, punctuation and symbols of any script, and single spaces. It has no character that cannot be
seen: no control or format characters (which reverse the direction of text, or join and separate without a trace), none
that Unicode has not assigned, and none of the few letters and marks that show nothing. At most two marks follow each
other, since a pile of them covers other lines. Whatever is written in several ways is written in one (NFKC).

Two names are taken for the same if they differ only in capitals, or in characters of the Latin, Greek and Cyrillic
alphabets and digits that look alike. That is short, and not complete: Unicode's own list of confusable characters (UTS
#39) has thousands.
"""

import re
import unicodedata

MAX_NAME = 24

# Letters, marks and a symbol that show nothing.
BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# What small letters look like, or their capitals: first those of the Cyrillic alphabet, then of the Greek one.
LOOKALIKES = str.maketrans(
    "аёвеіїјкмнорсѕтухһԁԛԝ" + "αβεζηικμνορτυχ" + "01i|\u0131",
    "aëbelïjkmhopcstyxhdqw" + "abezhlkmnoptyx" + "ollll",
)


def tidy(name: str) -> str:
    """Return a nickname as it is written, "" where it is none."""
    if len(name) > 4 * MAX_NAME:  # it gets longer before it gets shorter
        return ""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    kinds = "".join(unicodedata.category(character)[0] for character in name)
    # Letters, Marks, Numbers, Punctuation and Symbols; what is of kind Z is a space by now, or a separator of lines.
    good = len(name) <= MAX_NAME and re.fullmatch(r"(?:[LNPSZ]M{0,2})*", kinds) and not BLANK.search(name)
    return name if good else ""


def key(name: str) -> str:
    """Return the same for nicknames that look the same, such as `Ann`, `ANN` and `Ann` with a Cyrillic A."""
    return unicodedata.normalize("NFKC", name).casefold().translate(LOOKALIKES)
