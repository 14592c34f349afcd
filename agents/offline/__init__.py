"""Learners of offline data."""
