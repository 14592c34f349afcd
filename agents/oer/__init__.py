"""Offline experience replay (Gai et al. 2023, arXiv:2305.13804): continual offline learning."""
