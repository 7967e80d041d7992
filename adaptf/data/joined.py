"""Files written one behind the other into one, as `cat` does:
libsndfile reads the first and is silent on the others."""

import mmap
import re
from collections.abc import Iterator

_OGG_FIRST_PAGE = re.compile(rb"OggS\0[\x02\x06]")
_OGG_HEADER_BYTES = 27
"""Of a page, the last of them the number of the segment lengths that follow."""
_FLAC_BEGIN = re.compile(rb"fLaC[\x00\x80]\0\0\x22")


def files_in(content: bytes | mmap.mmap, format: str) -> list[bytes]:
    """The files that were joined, [] where it is one as usual; `format` as soundfile calls it.
    MP3 is apart, in `mp3.py`."""
    begins = list(BEGINS[format](content))[1:] if format in BEGINS else []
    ends = [*begins, len(content)]
    return [content[begin:end] for begin, end in zip([0, *begins], ends, strict=True)] if begins else []


def _flac_begins(content: bytes | mmap.mmap) -> Iterator[int]:
    return (found.start() for found in _FLAC_BEGIN.finditer(content))


def _ogg_begins(content: bytes | mmap.mmap) -> Iterator[int]:
    """First pages; those right behind another are of streams that belong together,
    such as picture and sound."""
    end_of_last = -1
    for found in _OGG_FIRST_PAGE.finditer(content):
        if found.start() != end_of_last:
            yield found.start()
        lengths = found.start() + _OGG_HEADER_BYTES
        segments = content[lengths - 1 : lengths]
        end_of_last = lengths + sum(segments) + sum(content[lengths : lengths + sum(segments)])


BEGINS = {"OGG": _ogg_begins, "FLAC": _flac_begins}
