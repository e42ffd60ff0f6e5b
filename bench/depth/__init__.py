"""Recurrent-depth networks, parallel over depth."""
