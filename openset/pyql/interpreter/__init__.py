"""The scalar interpreter: one person at a time, the oracle of the engine and its fallback."""
