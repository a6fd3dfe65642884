"""Verifies the DKIM signatures of a message with dkimpy: message on stdin, key records as JSON in argv[1].

Prints one verdict per signature, top to bottom.
"""
import json
import sys

import dkim

records = json.loads(sys.argv[1])
message = sys.stdin.buffer.read()


def lookup(name, timeout=5):
    return records.get(name.decode().rstrip(".").lower(), "").encode() or None


signatures = sum(1 for name, _ in dkim.DKIM(message).headers if name.lower() == b"dkim-signature")
for index in range(signatures):
    judge = dkim.DKIM(message)
    try:
        passed = judge.verify(idx=index, dnsfunc=lookup)
        reason = ""
    except dkim.DKIMException as error:
        passed, reason = False, str(error)
    print("pass" if passed else "fail", reason)
