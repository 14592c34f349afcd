"""Synthetic experience replay: a diffusion model of whole transitions (Lu et al. 2023)."""
