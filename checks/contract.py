"""`make test-contract`: schemathesis reads /openapi.json and sends generated bodies to every route.

Valid and invalid requests must get a documented status and a documented body, and never a 5xx. It
runs in its own environment against a server with the mock, so that no model's speed limits the
number of requests.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from checks.serving import served

TOOL = Path(".venvs/contract/bin/schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
PHASES = ("examples", "coverage", "fuzzing")


def main() -> int:
    """The tool's own exit status, 0 when it finds nothing."""
    parser = argparse.ArgumentParser(prog="python -m checks.contract", description=main.__doc__)
    parser.add_argument("--examples", type=int, default=60, help="generated requests per route")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with served() as address:
        command = [
            str(TOOL),
            "run",
            f"{address}/openapi.json",
            f"--checks={','.join(CHECKS)}",
            f"--phases={','.join(PHASES)}",
            f"--max-examples={chosen.examples}",
            f"--seed={chosen.seed}",
            "--continue-on-failure",
            "--suppress-health-check=all",
            "--warnings=off",
            "--workers=2",
        ]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
