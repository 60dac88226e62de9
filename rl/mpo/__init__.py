"""Mixed preference optimisation: pairs from a policy's own responses, and training on them."""
