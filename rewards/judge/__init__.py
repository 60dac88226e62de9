"""Generative rewards: a language model behind an OpenAI-compatible endpoint gives the marks."""
