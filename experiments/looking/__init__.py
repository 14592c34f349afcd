"""Looking at runs: scores, curves, films."""
