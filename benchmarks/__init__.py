"""``make bench``: Keyturn beside OpenBao, in one run on one machine. See docs/benchmarks.md."""
