"""Shared by the commands: servers, models, records, and the parts of reports."""
