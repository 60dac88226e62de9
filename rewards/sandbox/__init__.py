"""Runs a policy's code where it can do no harm: namespaces, a system-call filter, hard limits.

Invariant: code runs fully isolated or not at all; what a machine cannot provide is named.
"""
