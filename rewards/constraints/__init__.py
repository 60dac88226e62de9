"""Hard constraints on a response (alignment): checks, instructions, composition, contradictions."""
