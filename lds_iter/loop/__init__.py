"""The one loop: state, frontier, iteration, run, observers."""
