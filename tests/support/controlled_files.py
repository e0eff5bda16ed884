"""A file layer that does what a control file says, so that a test can make a running daemon's disk fail and recover.

The control file is JSON: a list of faults, each `{"kind", "suffix", "errno"}`; steps of this kind ("" for all) on names
that end like this fail with this error, as long as the file says so. Writes fail half-way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from openset_format.files import Buffer, FileLayer, WritableFile


class ControlledFiles(FileLayer):
    """The real disk, except for what the control file says."""

    def __init__(self, control: Path):
        self._control = control

    def tried(self, kind: str, path: Path) -> None:
        try:
            faults = json.loads(self._control.read_text())
        except FileNotFoundError:
            return
        for fault in faults:
            if fault["kind"] in ("", kind) and path.name.endswith(fault.get("suffix", "")):
                raise OSError(fault["errno"], os.strerror(fault["errno"]))

    def create(self, path: Path) -> WritableFile:
        self.tried("create", path)
        return ControlledFile(self, super().create(path))

    def open(self, path: Path) -> WritableFile:
        return ControlledFile(self, super().open(path))

    def rename(self, source: Path, target: Path) -> None:
        self.tried("rename", target)
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self.tried("sync_directory", path)
        super().sync_directory(path)


class ControlledFile(WritableFile):
    """A file of ControlledFiles."""

    def __init__(self, layer: ControlledFiles, file: WritableFile):
        super().__init__(file.path, file._descriptor)
        self._layer = layer

    def write_at(self, buffers: Sequence[Buffer], offset: int) -> int:
        try:
            self._layer.tried("write", self.path)
        except OSError:
            whole = b"".join(bytes(buffer) for buffer in buffers)
            super().write_at([whole[: len(whole) // 2]], offset)
            raise
        return super().write_at(buffers, offset)

    def sync(self) -> None:
        self._layer.tried("sync", self.path)
        super().sync()

    def sync_data(self) -> None:
        self._layer.tried("sync", self.path)
        super().sync_data()


def set_faults(control: Path, *faults: dict[str, object]) -> None:
    """Changes what the control file says, in one step."""
    draft = control.with_suffix(".draft")
    draft.write_text(json.dumps(faults))
    draft.rename(control)
