"""What nodes send each other about queries, as bytes: arrays, values, result trees, and the answers of each kind."""
