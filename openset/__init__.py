"""OpenSet: a behavioural event database."""

__version__ = "0.1.0"
