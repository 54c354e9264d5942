"""A report to read: card, page, figures, and the words they share."""
