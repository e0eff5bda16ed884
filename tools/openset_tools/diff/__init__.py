"""What differs between two data directories, backups or partition files: `openset diff`.

`sides` opens what is compared, `fingerprints` turns people and events into hashes, `compare` finds what differs and
`shown` prints it.
"""
