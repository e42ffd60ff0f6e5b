"""Several tokens a pass from any language model: a guess of the next tokens, checked by one call of the model."""
