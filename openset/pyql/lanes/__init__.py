"""The vectorised engine: a script over arrays of cursors."""
