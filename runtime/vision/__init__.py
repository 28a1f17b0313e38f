"""Images: from the bytes of a file to tiles, to the tower's embeddings, to places among tokens.

Needs Pillow (the extra `vision`), and is imported only for models that see.
"""
