"""Clips that are parts of a longer file: how many there are, their names and keys.
`hall.wav#t=3` is its fourth clip.

With clips of one second the number is the second at which the clip begins.
"""

MARK = "#t="


def parts_in(samples: int, clip_samples: int) -> int:
    """Clips that so many samples make.
    What remains after the last whole one counts if it fills at least half a clip.

    It is padded with zeros then, as anything shorter than one clip is; a shorter rest is dropped, so that no
    clip is mostly silence that nobody recorded.
    """
    whole, rest = divmod(samples, clip_samples)
    return max(1, whole + (2 * rest >= clip_samples))


def part_name(file: str, part: int) -> str:
    """Name of the part that begins `part` clips after the file's start."""
    return f"{file}{MARK}{part}"


def split_name(name: str) -> tuple[str, int]:
    """File and part of a clip's name; a name without a mark is the whole file, which begins at part 0."""
    file, mark, part = name.rpartition(MARK)
    return (file, int(part)) if mark and part.isdecimal() else (name, 0)


def clip_key(content: str, part: int) -> str:
    """What a clip holds: the hash of its file and, behind a plus, the part."""
    return f"{content}+{part}" if part else content
