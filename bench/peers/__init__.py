"""Libraries that evaluate the same recurrences, beside ours: `python -m bench.peers`. One file for each peer."""
