"""Public HTTP contracts, one file each; `server.app` lists them."""
