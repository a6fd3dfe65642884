#!/usr/bin/env python3
"""Writes the first inputs of every corpus, from dialogs, vectors and examples in the tree.

Needs python3-nacl. What fuzzers find is added to the corpus by hand, with a name that says what it is.
"""
import base64, codecs, hashlib, json, pathlib, re, struct
from nacl.signing import SigningKey

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
VECTORS = json.loads((ROOT / "tests/vectors/mail-tunnel.json").read_text())


def put(target, name, data):
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def dialogs():
    for path in sorted((ROOT / "tests/dialogs").glob("*.smtp")):
        octets = b""
        for line in path.read_text().splitlines():
            if line.startswith("> "):
                octets += line[2:].encode() + b"\r\n"
            elif match := re.match(r'! "(.*)"( x|\s*\*|$)', line):
                octets += codecs.escape_decode(match[1].encode())[0]
        if 0 < len(octets) < 4096:
            put("smtp_receiver", path.stem, b"\x0f" + octets)


def answers():
    for n, text in enumerate([
        "250 2.1.0 fine\r\n", "250-mx.example\r\n250-PIPELINING\r\n250 SIZE 10\r\n", "550 no\r\n", "220\r\n",
        "250-a\r\n251 b\r\n", "25x\r\n", "354 go on\r\n250 2.0.0 id=\xe4\r\n", "421 4.3.2 bye\r\n", "250 x\n250 y\r",
        "250-" + "x" * 600 + "\r\n250 y\r\n",
    ]):
        put("smtp_answer", f"reply-{n:02}", b"\x02" + text.encode("latin-1"))


def tunnel():
    for n, frame in enumerate(VECTORS["frames"]["valid"]):
        hexes = [v for v in frame.values() if isinstance(v, str) and re.fullmatch(r"[0-9a-f]{14,}", v)]
        for found in hexes[:1]:
            put("tunnel_frame", f"valid-{n:02}", bytes.fromhex(found))
    for n, case in enumerate(VECTORS["frames"]["parse_cases"]):
        for found in [v for k, v in case.items() if isinstance(v, str) and "hex" in k][:1]:
            put("tunnel_frame", f"case-{n:02}", bytes.fromhex(found))
    n = 0
    for transcript in VECTORS["websocket_transcripts"]:
        for step in transcript["steps"]:
            if "text_json" in step:
                put("tunnel_control", f"said-{n:03}", json.dumps(step["text_json"]))
                n += 1
    for name, said in {
        "item-ack": {"type": "item_ack", "itemId": "x", "status": "stored", "sha256": "00"},
        "nack": {"type": "item_nack", "itemId": "x", "retryAfterMs": -1},
        "replay": {"type": "replay_request", "fromSeq": 1.5, "sinceMs": 7},
        "invite": {"type": "auth_challenge_response", "publicKeyBase32": "k", "challengeId": "c", "signatureBase64": "s",
                   "invite": "abcd-efgh-ijkl-mnop-qrst-uvwx"},
        "keys": {"type": "auth_ok", "publicKeyBase32": "k", "emailLocalPart": "k", "relayKeys": [
            {"keyId": "a", "publicKey": "AA==", "status": "current"}, 5], "aliases": ["a@b", 1], "features": ["ack"]},
        "credit": {"type": "credit", "items": 1, "bytes": 2, "itemBytesMax": None},
    }.items():
        put("tunnel_control", name, json.dumps(said))


def configs():
    example = (ROOT / "config/waystation.toml").read_text()
    put("config", "defaults", re.sub(r"^#(?! )", "", example, flags=re.M))
    put("config", "wrong-kind", "hostname = 5\n[smtp]\nlisten = [25]\n[tls.acme]\nenabled = 1\n")
    put("config", "unknown", "[smpt]\nlisten = []\n[tls]\nacme = { enabled = true, contact = \"x\" }\n")
    put("config", "gateway", 'relay_url = "wss://relay.example/ws"\n[maildir]\npath = "Maildir"\n')
    put("config", "gateway-two", 'relay_url = "ws://[::1]:8080/ws"\n[command]\nargv = []\n[webhook]\nurl = "x"\n')
    for n, case in enumerate(VECTORS["config_validation"] if isinstance(VECTORS["config_validation"], list)
                             else VECTORS["config_validation"].get("cases", [])):
        put("config", f"seed-{n:02}", json.dumps(case.get("config", case)))


def statements():
    key = SigningKey(b"\x01" * 32)

    def signed(payload, domain=b"", key_id="fuzz"):
        signature = key.sign(domain + payload).signature
        return "\n".join([key_id, base64.b64encode(payload).decode(), base64.b64encode(signature).decode()])

    plain = b'{"streamId":"s","mailFrom":"a@b","rcptTo":"c@d","issuedAt":"2026-01-01T00:00:00.000Z",' \
            b'"signals":{"spf":"pass","dkim":"fail","dmarc":"unknown"}}'
    ours = plain[:-1] + b',"relay":"mx","itemId":"i","sha256":"' + b"0" * 64 + b'","size":5,"clientIp":"192.0.2.1",' \
        b'"helo":"h","tls":"","verdicts":{"spf":{"result":"pass","domain":"b","scope":"mailfrom"},"dkim":[{"result":' \
        b'"pass","domain":"b","selector":"s","algorithm":"rsa-sha256"}],"dmarc":{"result":"pass","domain":"b","policy":' \
        b'"reject"},"arc":{"result":"none"}},"expiresAt":"2026-01-08T00:00:00.000Z"}'
    receipt = b'{"v":1,"kind":"item","relay":"mx","id":"06gvmkcmcfodl57vg7dcu9edjg","lane":"k","seq":7,"sha256":"' + \
        b"1" * 64 + b'","size":9,"headSha256":"' + b"2" * 64 + b'","chain":"' + b"3" * 64 + \
        b'","at":"2026-01-01T00:00:00.000Z"}'
    put("attestation", "seed", signed(plain))
    put("attestation", "ours", signed(ours))
    put("attestation", "receipt", signed(receipt, b"waystation-custody-1\n"))
    put("attestation", "receipt-without-its-domain", signed(receipt))
    put("attestation", "unknown-key", signed(plain, key_id="other"))
    put("attestation", "no-json", signed(b"{"))
    put("attestation", "flipped", signed(plain)[:-6] + "AAAA==")

    # Three under one signature: the way of a leaf is a step for each neighbour, its side and its hash.
    def hashed(*parts):
        return hashlib.sha256(b"".join(parts)).digest()

    first, second, third = (hashed(b"\0", *leaf) for leaf in [(b"", ours), (b"waystation-custody-1\n", receipt), (b"", plain)])
    pair = hashed(b"\1", first, second)
    signature = base64.b64encode(key.sign(b"waystation-batch-1\n" + hashed(b"\1", pair, third)).signature).decode()

    def batched(payload, way):
        return "\n".join(["fuzz", base64.b64encode(payload).decode(), signature, base64.b64encode(way).decode()])

    put("attestation", "batched", batched(ours, b"\1" + second + b"\1" + third))
    put("attestation", "batched-receipt", batched(receipt, b"\0" + first + b"\1" + third))
    put("attestation", "batched-last", batched(plain, b"\0" + pair))
    put("attestation", "batched-other-way", batched(ours, b"\0" + second + b"\1" + third))
    put("attestation", "batched-too-far", batched(ours, (b"\1" + second) * 17))
    put("attestation", "batched-half-a-step", batched(ours, b"\1" + second[:20]))


def proxies():
    v2 = b"\r\n\r\n\0\r\nQUIT\n"
    put("proxy_header", "v1-tcp4", b"PROXY TCP4 192.0.2.1 198.51.100.1 5 25\r\nEHLO x\r\n")
    put("proxy_header", "v1-tcp6", b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 25\r\n")
    put("proxy_header", "v1-unknown", b"PROXY UNKNOWN anything at all\r\n")
    put("proxy_header", "v1-long", b"PROXY TCP4 " + b"1" * 200 + b"\r\n")
    put("proxy_header", "v1-lf", b"PROXY TCP4 192.0.2.1 198.51.100.1 5 25\n")
    put("proxy_header", "v2-tcp4", v2 + b"\x21\x11" + struct.pack(">H", 12) + bytes([192, 0, 2, 1, 1, 2, 3, 4, 0, 5, 0, 25]))
    put("proxy_header", "v2-tcp6", v2 + b"\x21\x21" + struct.pack(">H", 36) + bytes(36))
    put("proxy_header", "v2-local", v2 + b"\x20\x00\0\0" + b"EHLO")
    put("proxy_header", "v2-tlv", v2 + b"\x21\x11" + struct.pack(">H", 20) + bytes(12) + b"\x04\0\x05hello")
    put("proxy_header", "v2-huge", v2 + b"\x21\x11\xff\xff" + bytes(40))
    put("proxy_header", "v2-part", v2[:7])


def results():
    ours, body = "mx.our.example", "From: a@b\r\nSubject: s\r\n\r\nAuthentication-Results: mx.our.example; none\r\n"
    for n, field in enumerate([
        f"Authentication-Results: {ours}; dmarc=pass", f"authentication-results:{ours.upper()}.;spf=pass",
        f"Authentication-Results:\r\n\t(c(d)) {ours} (x) 1;\r\n dkim=pass", f'Authentication-Results: "{ours}"; none',
        "Authentication-Results: other.example; spf=fail", f"Authentication-Results : {ours}; spf=pass",
        f"ARC-Authentication-Results: i=1; {ours}; spf=pass", "Waystation-Attestation: ok", "Authentication-Results",
        f"Authentication-Results: other.example;\r\n {ours}; spf=pass", "Authentication-Results: (" + "(" * 300,
    ]):
        put("authentication_results", f"field-{n:02}", b"\x03" + f"{field}\r\n{body}".encode())
    put("authentication_results", "no-end", b"\x01Authentication-Results: mx.our.example; spf=pass")
    put("authentication_results", "many", b"\x40" + (f"Authentication-Results: {ours}; none\r\n" * 20 + body).encode())


for write in (dialogs, answers, tunnel, configs, statements, proxies, results):
    write()
for directory in sorted(CORPUS.iterdir()):
    print(directory.name, len(list(directory.iterdir())))
