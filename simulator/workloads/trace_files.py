"""Lines of a trace file, plain or gzip, one at a time: ten gigabytes are read as ten lines are.

What is no text, or breaks off, is said with the file, the line and what to do.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NoReturn, cast

from market.errors import InvalidRequest

LINE_BYTES_MAX = 1 << 20
"""A prompt of a million tokens in blocks of 64 has 16,000 hashes: 0.3 MB."""

NOT_TEXT: Final = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first (zstd -d), or use gzip"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first (xz -d), or use gzip"),
    (b"BZh", "is compressed with bzip2; unpack it first (bunzip2), or use gzip"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"PAR1", "is a Parquet file; write it as CSV or JSON lines first"),
    (codecs.BOM_UTF16_LE, "is UTF-16; write it as UTF-8 first (iconv -f UTF-16 -t UTF-8)"),
    (codecs.BOM_UTF16_BE, "is UTF-16; write it as UTF-8 first (iconv -f UTF-16 -t UTF-8)"),
)
"""By its first bytes: what else people have traces in."""

Lines = Iterator[tuple[int, str]]
"""(number from 1, text without its end)."""

GZIP: Final = b"\x1f\x8b"


def refuse(path: Path, line: int | None, why: str) -> NoReturn:
    """Say what is wrong with a trace, and where."""
    place = str(path) if line is None else f"{path}:{line}"
    raise InvalidRequest(f"{place}: {why}", "trace")


def lines(path: Path) -> Lines:
    """Every line that is not blank.

    Raises InvalidRequest for what cannot be read as text.
    """
    number = 0
    try:
        with _opened(path) as file:
            while raw := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(raw) > LINE_BYTES_MAX:
                    refuse(path, number, f"longer than {LINE_BYTES_MAX} bytes; is this a trace?")
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        refuse(path, number, f"not UTF-8 text ({error.reason}); write the file as UTF-8 first.")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        refuse(
            path,
            number + 1,
            f"the gzip file breaks off or is damaged here ({error}); fetch it again.",
        )
    except OSError as error:
        refuse(path, None, f"cannot be read: {error.strerror or error}.")


def _opened(path: Path) -> IO[bytes]:
    """The file, unpacked where it is gzip: told by its first bytes, whatever its name says."""
    with path.open("rb") as file:
        first = file.read(8)
    for magic, what in NOT_TEXT:
        if first.startswith(magic):
            refuse(path, None, f"{what}.")
    if first.startswith(GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")
