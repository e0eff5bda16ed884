"""From text to the checked syntax tree: layout, grammar, checks, the formatter."""
