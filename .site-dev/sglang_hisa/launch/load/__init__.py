"""Load test of one running server: a sweep of concurrency or request rate, goodput and the knee."""
