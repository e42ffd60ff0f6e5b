"""Parallel generation as a repository that transformers' `generate(custom_generate=...)` loads.

Put this folder into a model repository, or name a local folder that holds it:

    model.generate(ids, custom_generate="path/or/repository", trust_remote_code=True, ahead=16)

`lds-iter` must be installed where it runs.
"""

from typing import Any

from lds_iter.depth import parallel_generate


def generate(model: Any, inputs: Any = None, input_ids: Any = None, **arguments: Any) -> Any:
    """`parallel_generate` with the arguments that transformers hands over; those that were not given are None."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return parallel_generate(model, input_ids if inputs is None else inputs, **given)
