"""A run: its directory, its configuration, what it leaves and how that is read back."""
