"""The gate: iteration counts and bytes of a fixed set of problems, which no change may make larger unnoticed."""
