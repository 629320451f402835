"""What pruning costs in answers: retrieval tasks against a server (`hisa eval`)."""
