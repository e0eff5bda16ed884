"""The cluster: who owns which partition, how its copies agree, and where that is decided."""
