"""The loop of a diffusers pipeline as the function of a recurrence, by calling the pipeline over and over.

A *walk* is one call of the pipeline with three things exchanged. `scheduler.step` hands back the iterate of the next
step in place of its result, and keeps what it was given. Networks answer from memory, or with NaN where nothing is
known. What comes before the loop, such as a text encoder, is evaluated once. A network whose arguments hold no NaN can
be evaluated, and is put down; one whose arguments hold NaN depends on an open answer, and waits for the next walk. That
alone orders a ControlNet before its UNet. When the walk is over, all that was put down is evaluated in one batch.

At the end the pipeline runs once more, with the real `scheduler.step`, the real callbacks and the real decoder, and the
solved samples: what follows the loop, and every generator, is as if nothing had happened.
"""
