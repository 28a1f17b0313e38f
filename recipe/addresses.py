"""Addresses as logs, plans, file names and reports may hold them."""

import re

# A name and a password: all before the last @ of the part that names the host.
_USER = re.compile(r"""(?<=://)[^/?#\s"]*@""")


def public_address(text: str) -> str:
    """`text`, with every address in it without the name and the password that sign in."""
    return _USER.sub("", text)
