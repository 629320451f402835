"""Server features one after the other, stock and HISA on the same prompts: what serves, and what differs."""
