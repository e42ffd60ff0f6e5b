"""Kalman methods: counts on hard problems, and the cost of one iteration."""
