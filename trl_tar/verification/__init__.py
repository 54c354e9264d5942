"""A stranger's check of a published model: hashes compared, attacks run again."""

from .verifier import verify


__all__ = ["verify"]
