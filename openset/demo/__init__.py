"""The demonstration that `make demo` runs: two sample data sets and questions over them."""
