"""Names as the eye reads them: what looks the same in a table, a setting, a request or a folder is the same
name. And names as MLflow and file systems take them."""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

UNKNOWN = "unknown"
"""Stands for every recording device that has no model of its own."""

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
"""Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark."""
_CYRILLIC_TO_LATIN = str.maketrans("авекмнорстухі", "abekmhopctyxi")
"""Letters of which the small or the capital one looks like a Latin letter."""
_FOLDERS_REMEMBERED = 1024
_SIGN, _CODE = r"[^\w -]", r"x(10[0-9a-f]{4}|[0-9a-f]{4,5})"
"""What a metric, a tag, a logged or registered model or a file may not have in its name, there or on some
system; and what stands for it, between underscores."""
_TO_STORE = re.compile(rf"{_SIGN}|_(?={_CODE}(_|{_SIGN}))")
"""And an underscore that would be taken for the begin of such a code."""
_FROM_STORE = re.compile(f"_{_CODE}_")
_MARKUP = re.compile(r"[\\`*|<>\[\]~]")


def tidy(name: str) -> str:
    """Without blanks around it, invisible characters and double blanks, its accents composed (NFC)."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name.translate(_INVISIBLE))
    return " ".join(name.split())


def tidy_file_name(name: str) -> str:
    """A file's name with '/' between folders, also where Windows wrote it, and without './',
    '//' and a '/' at its end."""
    name = tidy(name).replace("\\", "/")
    return posixpath.normpath(name) if name else ""


def stored(name: str) -> str:
    """The name in those of metrics, tags, models and files: 'Zoom H4n+' as 'Zoom H4n_x002b_', as in Office
    Open XML (ECMA-376, ST_Xstring). Letters, digits, blanks, '-' and '_' stay; unlike names stay unlike."""
    return _TO_STORE.sub(lambda sign: f"_x{ord(sign[0]):04x}_", name)


def written(name: str) -> str:
    """The name of which `stored` made this one."""
    return _FROM_STORE.sub(lambda sign: chr(int(sign[1], 16)), name)


def in_markdown(name: str) -> str:
    """The name as a page shows it, also within a table."""
    return _MARKUP.sub(r"\\\g<0>", name)


def outline(name: str) -> str:
    """Equal for names that a reader may take for each other:
    capitals, dashes, underscores, look-alike letters."""
    letters = unicodedata.normalize("NFKC", name).casefold().translate(_CYRILLIC_TO_LATIN)
    return tidy(
        "".join(" " if unicodedata.category(letter) in ("Pc", "Pd") else letter for letter in letters)
    )


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names with one outline, sorted."""
    distinct = sorted(set(names))
    outlines = {name: outline(name) for name in distinct}
    several = [shape for shape, count in Counter(outlines.values()).items() if count > 1]
    return [[name for name in distinct if outlines[name] == shape] for shape in several]


def find_file(root: Path, name: str) -> Path:
    """The file of this name below a folder:
    as it is written, else the only one of which the name looks the same.

    A file system tells composed accents from decomposed ones. Where there is none, the path as it is written.
    """
    if os.path.exists(root / name):
        return root / name
    path = root
    for part in PurePosixPath(name).parts:
        path = path / _entry(path, part)
    return path


def missing_file(path: Path) -> str:
    """What to say of a file that is not there: perhaps a folder is, or one of nearly its name."""
    if os.path.isdir(path):
        return "it is a folder, not a file"
    near = [
        name
        for name in _entries(path.parent)
        if outline(name) == outline(path.name) and tidy(name) != tidy(path.name)
    ]
    hint = f"; there is '{near[0]}', which is another name" if near else ""
    return f"the file is missing{hint}"


def _entry(folder: Path, name: str) -> str:
    """The entry of a folder with this name to the eye, or the name itself."""
    if os.path.exists(folder / name):
        return name
    found = [entry for entry in _entries(folder) if tidy(entry) == tidy(name)]
    return found[0] if len(found) == 1 else name


def _entries(folder: Path) -> tuple[str, ...]:
    try:
        return _entries_at(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):  # no folder, none that may be read, or a null character in its name
        return ()


@lru_cache(_FOLDERS_REMEMBERED)
def _entries_at(folder: Path, modified_ns: int) -> tuple[str, ...]:
    """Read once as long as nothing in it changes: thousands of files may be missing from one folder."""
    return tuple(sorted(os.listdir(folder)))
