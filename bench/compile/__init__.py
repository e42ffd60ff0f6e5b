"""Compiled solves against eager ones and against loops."""
