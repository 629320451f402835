"""Two arms side by side behind sglang-router: split traffic, metrics as they come, a stop that drains."""
