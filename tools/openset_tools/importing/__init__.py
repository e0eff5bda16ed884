"""`openset import`: files of events straight into partition files, offline.

The sources are cut into blocks (`sources`). Worker processes turn each block into an event batch, the same that an
insert request becomes (`reading`, `arrow_events`), and append its partitions to run files (`runs`). Then the runs of a
partition are merged in the order of the input on top of its file and its journal records, as a compaction does. All
new files and the catalog are put in place as one (`importer`). So a block counts as a request: ordinals, codes and
arrival order are what inserting it would have made.
"""
