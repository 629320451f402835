"""What the reports of `hisa ab` and `hisa load` share: record files, Markdown, plots, page style."""
