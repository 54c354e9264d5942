"""Verification of a published model by anyone: hashes are compared, and attacks run again."""

from .verifier import verify


__all__ = ["verify"]
