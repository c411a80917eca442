"""Adapters that bring the operators to a host program."""
