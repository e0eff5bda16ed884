"""Checking one file thoroughly: every checksum, HDF5's view against the manifest, the contents against the rules.

Nothing is modified. A file found sound here reads back, through the map or through HDF5, exactly what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from .errors import DamageError
from .hashing import checksum
from .invariants import Finding, findings, misfits
from .problem import Problem as Problem
from .problem import problem_of
from .reader import PartitionFile
from .seal import CHECKSUM_BLOCK_BYTES, DatasetPlace, gaps_between
from .segment import SegmentScan, scan_bytes, scan_segment


def verify_partition(path: Path | str) -> list[Problem]:
    """Everything wrong with a partition file; empty when it is sound.

    Raises UnsupportedFormatError for a file of a newer version and OSError when it cannot be read.
    """
    path = Path(path)
    try:
        file = PartitionFile.open(path)
        with path.open("rb") as handle:
            return list(damage(file, handle)) or list(_mistakes(file, handle))
    except DamageError as error:
        return [problem_of(error)]


def verify_segment(path: Path | str) -> list[Problem]:
    """Everything wrong with a segment file of a journal. A torn tail is reported too: recovery would cut it."""
    path = Path(path)
    return _segment_problems(path, lambda: scan_segment(path))


def verify_segment_bytes(path: Path, data: bytearray) -> list[Problem]:
    """`verify_segment`, of contents that were read already."""
    return _segment_problems(path, lambda: scan_bytes(path, data))


def _segment_problems(path: Path, scanned: Callable[[], SegmentScan]) -> list[Problem]:
    try:
        scan = scanned()
    except DamageError as error:
        return [Problem(error.file, None, error.offset, error.reason)]
    if scan.damage is None:
        return []
    behind = "" if scan.behind is None else f", with sound records from offset {scan.behind_offset}"
    return [Problem(str(path), None, scan.end, scan.damage + behind)]


def damage(file: PartitionFile, handle: BinaryIO) -> Iterator[Problem]:
    """Bytes that are not what was written: the disk's fault. handle: the same file, opened to be read."""
    name, manifest = str(file.path), file.manifest
    size_bytes = 8 * manifest.checksums_count
    try:
        handle.seek(manifest.checksums_offset)
        raw = handle.read(size_bytes)
        if checksum(raw) != manifest.checksums_hash:
            yield Problem(name, "/checksums", manifest.checksums_offset, "does not match its hash")
            return
    except OSError as error:
        yield Problem(name, "/checksums", manifest.checksums_offset, f"cannot be read: {error.strerror}")
        return
    checksums = np.frombuffer(raw, "<u8")
    for dataset, place in manifest.datasets.items():
        yield from _damaged_blocks(handle, name, dataset, place, checksums)
    extents = [(place.offset, place.size_bytes) for place in manifest.datasets.values()]
    extents += [
        (manifest.checksums_offset, size_bytes),
        (file.seal.manifest_offset, file.seal.manifest_bytes),
    ]
    rest = xxh3_64()
    try:
        for offset, size in gaps_between(extents, file.size_bytes):
            handle.seek(offset)
            rest.update(handle.read(size))
    except OSError as error:
        yield Problem(name, None, None, f"bytes outside the datasets cannot be read: {error.strerror}")
        return
    if rest.intdigest() != file.seal.rest_hash:
        yield Problem(name, None, None, "bytes outside the datasets (HDF5's own) do not match their hash")


def _damaged_blocks(
    handle: BinaryIO, name: str, dataset: str, place: DatasetPlace, checksums: NDArray[np.uint64]
) -> Iterator[Problem]:
    """The blocks of a dataset that do not match their checksums."""
    if not 0 <= place.first_checksum <= len(checksums) - place.checksum_count:
        yield Problem(name, dataset, place.offset, "its checksums are not in the file")
        return
    for block in range(place.checksum_count):
        start = block * CHECKSUM_BLOCK_BYTES
        try:
            handle.seek(place.offset + start)
            data = handle.read(min(CHECKSUM_BLOCK_BYTES, place.size_bytes - start))
        except OSError as error:
            yield Problem(name, dataset, place.offset + start, f"cannot be read: {error.strerror}")
            continue
        if checksum(data) != int(checksums[place.first_checksum + block]):
            yield Problem(name, dataset, place.offset + start, f"{len(data)} bytes do not match their checksum")


def unreadable(file: PartitionFile, handle: BinaryIO) -> Iterator[Problem]:
    """Why the arrays of a file cannot be relied on: damage, or sizes and codes that do not fit together.

    Much less than `verify_partition`: what it costs is reading the file. handle: the same file, opened to be read.
    """
    found = False
    for problem in damage(file, handle):
        found = True
        yield problem
    if not found:
        yield from misfitting(file)


def misfitting(file: PartitionFile) -> list[Problem]:
    """Sizes, bounds, codes and texts of a file that do not fit together, so that it cannot be read."""
    found: list[Problem] = []
    try:
        for problem in _located(file, misfits(file)):
            found.append(problem)
    except DamageError as error:
        found.append(Problem(error.file, error.dataset, error.offset, error.reason))
    return found


def _mistakes(file: PartitionFile, handle: BinaryIO) -> Iterator[Problem]:
    """What a writer got wrong."""
    yield from _hdf5(file, handle)
    yield from _located(file, findings(file))


def _located(file: PartitionFile, found: Iterable[Finding]) -> Iterator[Problem]:
    for dataset, index, message in found:
        place = file.manifest.datasets.get(dataset)
        offset = None if place is None else place.offset + index * np.dtype(place.dtype).itemsize
        yield Problem(str(file.path), dataset, offset, f"{message} (element {index})")


def _hdf5(file: PartitionFile, opened: BinaryIO) -> Iterator[Problem]:
    """What any HDF5 tool sees must be what the manifest says. opened: HDF5 refuses a path whose file was replaced."""
    import h5py  # takes its time to load, and whoever only looks for damage does without
    from h5py import h5d

    expected = dict(file.manifest.datasets)
    expected["/checksums"] = DatasetPlace(file.manifest.checksums_offset, "<u8", file.manifest.checksums_count, 0)
    expected["/manifest"] = DatasetPlace(file.seal.manifest_offset, "|u1", file.seal.manifest_bytes, 0)
    found: dict[str, tuple[int, str, int]] = {}
    scales: dict[str, int] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            allocated = item.id.get_space_status() == h5d.SPACE_STATUS_ALLOCATED
            offset = int(item.id.get_offset()) if allocated and item.chunks is None else -1
            found[f"/{name}"] = (offset, item.dtype.str, int(item.size))
            if "scale" in item.attrs:
                scales[f"/{name}"] = int(item.attrs["scale"])

    try:
        with h5py.File(opened, "r") as handle:
            handle.visititems(visit)
            attributes = {name: handle.attrs[name] for name in ("table_id", "partition", "generation", "journal_id")}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        yield Problem(str(file.path), None, None, f"HDF5 cannot read it: {error}")
        return
    for name, value in attributes.items():
        if value != getattr(file, name):
            yield Problem(str(file.path), None, None, f"attribute {name} is {value}, sealed {getattr(file, name)}")
    if scales != file.manifest.scales:
        yield Problem(str(file.path), None, None, f"attributes scale are {scales}, not {file.manifest.scales}")
    for name in sorted(expected.keys() | found.keys()):
        place, seen = expected.get(name), found.get(name)
        if place is None:
            yield Problem(str(file.path), name, None, "not in the manifest")
        elif seen != (place.offset, place.dtype, place.count):
            yield Problem(str(file.path), name, place.offset, f"HDF5 says (offset, type, count) {seen}, not {place}")
