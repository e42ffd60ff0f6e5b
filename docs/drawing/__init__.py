"""The pictures of the guide, one file a kind. `python -m docs.make_pictures` draws them all, for light and for dark."""
