"""One protocol for multimodal language models, and what stands behind it."""
