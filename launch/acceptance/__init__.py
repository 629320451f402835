"""Acceptance: each server feature in turn, stock DSA and HISA on the same prompts."""
