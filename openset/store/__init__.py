"""Tables on disk: catalog, ingest, journal, snapshots, views on partitions, compaction."""
