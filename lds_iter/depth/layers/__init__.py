"""The layers of a model as a recurrence over depth: time is depth, the state a whole hidden sequence."""
