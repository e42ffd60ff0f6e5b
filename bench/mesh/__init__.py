"""One trajectory over several processes: what an iteration sends, how long it takes, and where that pays."""
