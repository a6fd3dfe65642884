"""Turns the RFC 7208 test suite (YAML, argv[1]) into JSON on stdout: a list of zones with their cases.

A zone: {"description", "records": {name: {type: [value, ...]}}, "silent": {name: [type, ...]}, "broken": [name, ...]}.
The rules are those of the suite: SPF records stand for TXT records where there are none, "NONE" means none, TIMEOUT is
for every type that the name does not have, and names below "error." never answer.
"""
import json
import re
import sys

import yaml

TYPES = ["TXT", "A", "AAAA", "MX", "PTR"]
suite = []
for scenario in yaml.safe_load_all(open(sys.argv[1], "rb")):
    records, silent = {}, {}
    for name, entries in scenario["zonedata"].items():
        here, generated, timeout = {}, [], False
        has_txt = any(isinstance(entry, dict) and "TXT" in entry for entry in entries)
        for entry in entries:
            if entry == "TIMEOUT":
                timeout = True
                continue
            for kind, value in entry.items():
                if value == "NONE":
                    here.setdefault(kind, [])
                    continue
                if kind in ("TXT", "SPF"):
                    value = value if isinstance(value, str) else "".join(value)
                    if kind == "SPF":
                        generated.append(value)
                        continue
                here.setdefault(kind, []).append(value)
        if generated and not has_txt:
            here["TXT"] = generated
        here = {kind: values for kind, values in here.items() if values}
        records[name] = here
        if timeout:
            silent[name] = [kind for kind in TYPES if kind not in here]
    text = json.dumps(scenario["zonedata"])
    broken = sorted(set(re.findall(r"error\.[a-z0-9.-]*[a-z0-9]", text)))
    cases = []
    for name, case in scenario["tests"].items():
        result = case["result"] if isinstance(case["result"], list) else [case["result"]]
        cases.append({
            "name": name,
            "helo": case["helo"],
            "host": case["host"],
            "mail_from": case["mailfrom"],
            "results": result,
        })
    suite.append({
        "description": scenario["description"],
        "records": records,
        "silent": silent,
        "broken": broken,
        "cases": cases,
    })
json.dump(suite, sys.stdout)
