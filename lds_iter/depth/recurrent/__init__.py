"""Language models that apply one core many times to each token, and generation of several tokens at once from them."""
