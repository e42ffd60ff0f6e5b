"""Choose while solving."""

from lds_iter.auto.auto import Auto as Auto
