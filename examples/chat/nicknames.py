"""Validation of nicknames, and detection of names that look the same.

A name consists of letters, digits, punctuation and symbols of any script, and single spaces. Invisible characters are
not allowed: control and format characters (which may reverse the direction of text), unassigned code points, and the
few letters and marks that are rendered as nothing. At most two combining marks may follow each other, since a stack of
them covers other lines. Names are normalized to NFKC.

Two names are considered equal if they differ only in case, or in Latin, Greek and Cyrillic letters and digits that look
alike. The list is short and incomplete: Unicode's list of confusable characters (UTS #39) has thousands.
"""

import re
import unicodedata

MAX_NAME = 24

# Letters, marks and a symbol that are rendered as nothing.
BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# Letters whose small or capital form looks like a Latin one: first Cyrillic letters, then Greek ones.
LOOKALIKES = str.maketrans(
    "аёвеіїјкмнорсѕтухһԁԛԝ" + "αβεζηικμνορτυχ" + "01i|\u0131",
    "aëbelïjkmhopcstyxhdqw" + "abezhlkmnoptyx" + "ollll",
)


def normalize(name: str) -> str:
    """Return the normalized nickname, or "" if it is invalid."""
    if len(name) > 4 * MAX_NAME:  # normalization may make it longer
        return ""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    categories = "".join(unicodedata.category(character)[0] for character in name)
    # Letters, Marks, Numbers, Punctuation and Symbols. Category Z is a space, or a line separator by now.
    is_valid = len(name) <= MAX_NAME and re.fullmatch(r"(?:[LNPSZ]M{0,2})*", categories) and not BLANK.search(name)
    return name if is_valid else ""


def skeleton(name: str) -> str:
    """Return a key that is equal for names that look the same, such as `Ann`, `ANN` and `Ann` with a Cyrillic A."""
    return unicodedata.normalize("NFKC", name).casefold().translate(LOOKALIKES)
