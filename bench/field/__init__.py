"""Iteration counts of the recipes that bring further parts of the field, beside what their sources report."""
