"""Optimizers: of attacks, Schedule-Free, with stochastic rounding, and with state on the host."""
