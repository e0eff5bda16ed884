"""Backups of data directories: `openset backup` and `openset restore`. spec/backup.md says what a backup directory is.

`places` and `remote` know where files are kept, `lists` what a backup is, `source` what belongs to one moment of a data
directory; `make`, `prune`, `restore` and `table` do the work, `opened` lets other tools read a backup.
"""
