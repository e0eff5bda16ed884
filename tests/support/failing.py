"""A file layer whose disk fails at some step, and at all that follow: the machine is gone."""

from __future__ import annotations

from pathlib import Path

from openset_format.files import FileLayer, WritableFile


class FailingFiles(FileLayer):
    """Fails at step `at`, counted from 0. Steps: creating, syncing, renaming, removing, syncing a directory."""

    def __init__(self, at: int):
        self._left = at

    def step(self) -> None:
        """Raises OSError when the time has come."""
        self._left -= 1
        if self._left < 0:
            raise OSError(5, "Input/output error")

    def create(self, path: Path) -> WritableFile:
        self.step()
        file = super().create(path)
        return _FailingFile(file, self)

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.step()
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self.step()
        super().sync_directory(path)


class _FailingFile(WritableFile):
    def __init__(self, file: WritableFile, layer: FailingFiles):
        super().__init__(file.path, file._descriptor)
        self._layer = layer

    def sync(self) -> None:
        self._layer.step()
        super().sync()

    def sync_data(self) -> None:
        self._layer.step()
        super().sync_data()
