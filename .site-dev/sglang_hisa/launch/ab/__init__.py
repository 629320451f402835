"""Arms of one server compared in interleaved rounds: plan, measurements, statistics, report."""
