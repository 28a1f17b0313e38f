"""Turns a Hugging Face checkpoint into a proven artifact; the only room with torch in it."""
