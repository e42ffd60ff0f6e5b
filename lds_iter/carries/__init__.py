"""Recurrences whose state is a pytree and which give outputs, as `jax.lax.scan` has them."""
