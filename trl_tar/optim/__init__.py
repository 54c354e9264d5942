"""Optimizers: those of attacks, Schedule-Free ones, stochastic rounding, and state that waits on the host."""
