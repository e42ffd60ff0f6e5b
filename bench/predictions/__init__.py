"""Iteration counts that `diagnostics` predicts, against those measured."""
