"""Recipes: complete things to do with `lds_iter`, a folder each, run with `python -m recipes.NAME`."""
