"""Rounds of GSPO, rejection sampling, cold start and filtering."""
