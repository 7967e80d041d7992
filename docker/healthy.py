"""Ends well where the server at a port of this container says that it lives: `python healthy.py 5000`.

A file, because engines do not agree on how a health test with blanks in it is split.
"""

import sys
import urllib.request

urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health", timeout=4)
