"""A recipe's steps, each of which resumes and is not repeated."""
