"""Signs messages with dkimpy: a list of jobs as JSON on stdin, a list of {"message", "name", "record"} on stdout.

A job: {"message", "domain", "selector", "key": "rsa:BITS" | "ed25519", "header", "body", "length", "identity",
"algorithm", "fields", "hops", "seal"}. With "hops" the message goes through that many ARC sealers instead.
Messages are base64.
"""
import base64
import json
import subprocess
import sys

import dkim
import nacl.signing

KEYS = {}


def key(kind, domain, selector):
    if (kind, domain, selector) not in KEYS:
        if kind == "ed25519":
            private = nacl.signing.SigningKey.generate()
            public = base64.b64encode(private.verify_key.encode()).decode()
            made = (base64.b64encode(private.encode()), "v=DKIM1; k=ed25519; p=" + public)
        else:
            pem = subprocess.run(["openssl", "genrsa", "-traditional", kind.split(":")[1]], capture_output=True, check=True)
            der = ["openssl", "rsa", "-pubout", "-outform", "DER"]
            public = subprocess.run(der, input=pem.stdout, capture_output=True, check=True).stdout
            made = (pem.stdout, "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode())
        KEYS[(kind, domain, selector)] = made
    return KEYS[(kind, domain, selector)]


def sealed(message, job, private):
    for hop in range(1, job["hops"] + 1):
        sealer = b"hop%d.%s" % (hop, job["seal"].encode())
        message = b"Authentication-Results: %s; arc=%s\r\n" % (sealer, b"none" if hop == 1 else b"pass") + message
        lines = dkim.arc_sign(message, job["selector"].encode(), job["domain"].encode(), private, sealer)
        message = b"".join(lines) + message
    return message


done = []
for job in json.load(sys.stdin):
    message = base64.b64decode(job["message"])
    private, record = key(job["key"], job["domain"], job["selector"])
    if job.get("hops"):
        message = sealed(message, job, private)
    else:
        algorithm = "ed25519-sha256" if job["key"] == "ed25519" else job.get("algorithm", "rsa-sha256")
        fields = job.get("fields")
        signature = dkim.sign(
            message, job["selector"].encode(), job["domain"].encode(), private,
            identity=job["identity"].encode() if job.get("identity") else None,
            canonicalize=(job.get("header", "relaxed").encode(), job.get("body", "relaxed").encode()),
            signature_algorithm=algorithm.encode(), length=job.get("length", False),
            include_headers=[field.encode() for field in fields] if fields else None)
        message = signature + message
    done.append({
        "message": base64.b64encode(message).decode(),
        "name": job["selector"] + "._domainkey." + job["domain"],
        "record": record,
    })
json.dump(done, sys.stdout)
