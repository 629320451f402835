"""Stress of one server with the canary on: what must never make a summary wrong, for minutes."""
