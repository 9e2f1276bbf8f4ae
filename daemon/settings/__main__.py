"""``python -m daemon.settings --markdown`` prints ``docs/configuration.md``."""

from __future__ import annotations

import sys

from daemon.settings.docs import markdown

if __name__ == "__main__":
    if sys.argv[1:] != ["--markdown"]:
        sys.exit("usage: python -m daemon.settings --markdown > docs/configuration.md")
    sys.stdout.write(markdown())
