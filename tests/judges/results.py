"""Reads an Authentication-Results field on stdin with PyPI authres and prints what it understood as JSON."""
import json
import sys

import authres

parsed = authres.AuthenticationResultsHeader.parse(sys.stdin.read().replace("\r\n", "\n").replace("\n\t", " \t").strip())
results = [
    {
        "method": one.method,
        "result": one.result,
        "reason": one.reason,
        "properties": {f"{p.type}.{p.name}": p.value for p in one.properties},
    }
    for one in parsed.results
]
json.dump({"id": parsed.authserv_id, "results": results}, sys.stdout)
