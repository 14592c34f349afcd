"""Many runs: suites, claims, tables, statistics, pictures."""
