"""Dream worlds: models of an environment that are environments themselves."""
