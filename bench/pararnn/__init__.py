"""ParaRNN beside ours."""
