"""Training of the builtin model's projector, adapter and contrastive head."""
