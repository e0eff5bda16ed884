"""What PyQL's operators and functions mean, on single Python values."""
