"""Domain experts and their merging back into the policy."""
