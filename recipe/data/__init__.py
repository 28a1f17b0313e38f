"""Labelled questions as people keep them: one file a form, and one way in (`reading.read`)."""
