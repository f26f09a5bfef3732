"""Compare an index with the files it lists."""

from open_miipher.audio.io import AudioError, read_header
from open_miipher.base.errors import report
from open_miipher.base.threads import in_threads
from open_miipher.index.metadata import METADATA_NAME, Entry, Index
from open_miipher.index.rows import FIRST_ROW


def verify_index(index: Index, limit: int = 20_000) -> None:
    """See that the files exist and that their headers say what the index says.

    Args:
        index: as read.
        limit: of a longer index, so many entries evenly spread are looked at.

    Raises:
        UserError: all differences together, the first 10 named with their rows in metadata.csv
            (the header is row 1).
    """
    count = len(index)
    places = range(count) if count <= limit else [i * count // limit for i in range(limit)]
    found = in_threads(lambda place: _problem(index, index[place]), places)
    report(
        [
            f"{index.root / METADATA_NAME} row {place + FIRST_ROW}: {problem}"
            for place, problem in zip(places, found, strict=True)
            if problem
        ]
    )


def _problem(index: Index, entry: Entry) -> str | None:
    try:
        info = read_header(index.root / entry.file_path)
    except AudioError as error:
        return str(error)
    wrong = [
        f"{name} is {getattr(entry, name)}, the file's is {getattr(info, name)}"
        for name in ("sample_rate", "num_frames", "num_channels")
        if getattr(entry, name) != getattr(info, name)
    ]
    return f"{entry.file_path}: {', '.join(wrong)}; make the index again" if wrong else None
