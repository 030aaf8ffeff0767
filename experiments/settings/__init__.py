"""Flags to a configuration: what one experiment is, as data, and every flag that says it."""
