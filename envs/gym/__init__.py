"""Doors to gymnasium and Stable-Baselines3, both ways."""
