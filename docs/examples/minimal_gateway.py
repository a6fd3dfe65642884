#!/usr/bin/python3
"""A gateway of tunnel 2 in one file, written from docs/protocol.md alone.

    minimal_gateway.py --url ws://127.0.0.1:8080/ws --key passport.pem --dir mail --items 1
    minimal_gateway.py ... --send you@example.org < message.eml

Logs in, stores what comes below DIR/new, acks it, and ends after so many items; --send submits standard input first and waits
for its result. Needs Python 3.10 and `cryptography` (Debian: python3-cryptography). A real gateway also comes back after a lost
connection: everything that was not acked is offered again then.
"""
import argparse
import base64
import hashlib
import json
import os
import secrets
import socket
import ssl
import struct
import sys
import urllib.request
import uuid
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

START, CHUNK, END, ABORT = 1, 2, 3, 4
CHUNK_BYTES = 64 * 1024
RECEIPT_DOMAIN = b"waystation-custody-1\n"


class WebSocket:
    """RFC 6455 as far as a client needs it: whole messages, masked frames, pongs."""

    def __init__(self, url):
        to = urlsplit(url)
        port = to.port or (443 if to.scheme == "wss" else 80)
        self.line = socket.create_connection((to.hostname, port), timeout=60)
        if to.scheme == "wss":
            self.line = ssl.create_default_context().wrap_socket(self.line, server_hostname=to.hostname)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.line.sendall(
            f"GET {to.path} HTTP/1.1\r\nHost: {to.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.file = self.line.makefile("rb")
        head = [self.file.readline()]
        while head[-1] not in (b"\r\n", b""):
            head.append(self.file.readline())
        if b" 101 " not in head[0]:
            raise SystemExit(f"the relay refuses the upgrade: {head[0]!r}")

    def exactly(self, count):
        data = self.file.read(count)
        if len(data) != count:
            raise SystemExit("the relay is gone")
        return data

    def send(self, opcode, payload):
        mask = secrets.token_bytes(4)
        if len(payload) < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
        elif len(payload) < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload))
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, len(payload))
        repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
        self.line.sendall(head + mask + masked)

    def receive(self):
        """The next text (str) or binary (bytes) message."""
        kind, data = None, b""
        while True:
            first, second = self.exactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.exactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.exactly(8))
            payload, opcode = self.exactly(length), first & 0x0F
            if opcode == 9:
                self.send(10, payload)
            elif opcode == 8:
                code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                raise SystemExit(f"the relay closes: {code} {payload[2:].decode()}")
            elif opcode < 3:
                kind, data = opcode or kind, data + payload
                if first & 0x80:
                    return data.decode() if kind == 1 else data

    def say(self, **message):
        self.send(1, json.dumps(message).encode())


def frame(kind, stream, body=b""):
    name = stream.encode()
    return struct.pack("!BBBI", 1, kind, len(name), len(body)) + name + body


def unframe(message):
    version, kind, name_bytes, body_bytes = struct.unpack_from("!BBBI", message)
    if version != 1 or len(message) != 7 + name_bytes + body_bytes:
        raise SystemExit("no frame")
    return kind, message[7 : 7 + name_bytes].decode(), message[7 + name_bytes :]


def key_text(public):
    raw = public.public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)
    return base64.b32encode(raw).decode().lower().rstrip("=")


def load_key(path):
    if not os.path.exists(path):
        pem = Ed25519PrivateKey.generate().private_bytes(
            ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(pem)
    with open(path, "rb") as pem:
        return ser.load_pem_private_key(pem.read(), None)


def pinned_keys(url):
    """The relay's signing keys. A real gateway fetches them once, shows them to somebody, and keeps them."""
    well_known = url.replace("ws", "http", 1).removesuffix("/ws") + "/.well-known/waystation"
    with urllib.request.urlopen(well_known) as answer:
        keys = json.load(answer)["keys"]
    return {k["keyId"]: Ed25519PublicKey.from_public_bytes(base64.b64decode(k["publicKey"])) for k in keys}


def opened(domain, signed, keys):
    """The payload of something signed, or nothing when no trusted key signed it."""
    payload = base64.b64decode(signed["payloadBase64"], validate=True)
    try:
        keys[signed["keyId"]].verify(base64.b64decode(signed["signatureBase64"], validate=True), domain + payload)
    except (KeyError, InvalidSignature):
        return None
    return json.loads(payload)


class Gateway:
    def __init__(self, url, key, directory):
        self.url, self.key, self.directory = url, key, directory
        self.name = key_text(key.public_key())
        self.streams, self.stored, self.last = {}, 0, None
        for part in ("tmp", "new"):
            os.makedirs(os.path.join(directory, part), exist_ok=True)

    def login(self):
        self.keys = pinned_keys(self.url)
        self.socket = WebSocket(self.url)
        self.socket.say(
            type="auth_challenge_request", publicKeyBase32=self.name, sessionRole="inbound",
            features=["ack", "results", "credit"], credit={"items": 8, "bytes": 1 << 20},
        )
        challenge = json.loads(self.socket.receive())
        if challenge["type"] != "auth_challenge":
            raise SystemExit(f"refused: {challenge}")
        # Never sign what another relay might have sent us: the text ends with the name of the one we dialled.
        kind, ident, nonce, host = challenge["challengeText"].split(":", 3)
        dialled = urlsplit(self.url).hostname
        here = dialled in ("127.0.0.1", "::1", "localhost") and host == "localhost"
        if kind != "relay-auth" or ident != challenge["challengeId"] or not (host == dialled or here):
            raise SystemExit(f"not our challenge: {challenge['challengeText']}")
        signature = self.key.sign(challenge["challengeText"].encode())
        self.socket.say(
            type="auth_challenge_response", publicKeyBase32=self.name, challengeId=ident,
            signatureBase64=base64.b64encode(signature).decode(), sessionRole="inbound",
        )
        ok = json.loads(self.socket.receive())
        if ok["type"] != "auth_ok" or "ack" not in ok.get("features", []):
            raise SystemExit(f"refused, or not tunnel 2: {ok}")
        self.address = f"{self.name}@{ok['domains'][0]}"
        print(f"connected as {self.address}", flush=True)

    def submit(self, recipient, message):
        """Sends one message to one recipient; the stream's id is what makes a repeat harmless."""
        self.submitted = str(uuid.uuid4())
        start = json.dumps({"mailFrom": self.address, "rcptTo": recipient}).encode()
        self.socket.send(2, frame(START, self.submitted, start))
        for at in range(0, len(message), CHUNK_BYTES):
            self.socket.send(2, frame(CHUNK, self.submitted, message[at : at + CHUNK_BYTES]))
        self.socket.send(2, frame(END, self.submitted))

    def serve(self, items, waiting):
        """Takes what comes until so many items are stored and nothing submitted is without a result."""
        while self.stored < items or waiting:
            message = self.socket.receive()
            if isinstance(message, bytes):
                self.hear(*unframe(message))
                continue
            said = json.loads(message)
            if said["type"] == "outbound_accepted":
                print(f"accepted {said['submissionId']}", flush=True)
            elif said["type"] == "relay_delivery_result":
                print(f"result {said['status']} {said.get('error', '')}".rstrip(), flush=True)
                if "resultId" in said:
                    self.socket.say(type="delivery_result_ack", resultId=said["resultId"])
                waiting = waiting and said["streamId"] != self.submitted
            elif said["type"] in ("auth_error", "drain"):
                print(f"the relay says {said}", flush=True)

    def hear(self, kind, stream, body):
        if kind == START:
            self.streams[stream] = (json.loads(body), bytearray())
        elif stream not in self.streams:
            return
        elif kind == CHUNK:
            self.streams[stream][1].extend(body)
        elif kind == ABORT:
            del self.streams[stream]
        elif kind == END:
            start, data = self.streams.pop(stream)
            item = start["itemId"]
            digest = hashlib.sha256(data[start["traceBytes"] :]).hexdigest()
            if len(data) != start["size"] or digest != start["sha256"]:
                self.socket.say(type="item_nack", itemId=item, retryAfterMs=1000)
                return
            self.check(start, bytes(data[: start["traceBytes"]]), digest)
            self.keep(item, data)
            self.socket.say(type="item_ack", itemId=item, status="stored", sha256=digest)
            self.stored += 1
            print(f"stored {item} from <{start['mailFrom']}>", flush=True)

    def check(self, start, head, digest):
        """The relay's receipt: signed, for this item and these bytes, and continuing the chain that we know."""
        receipt = opened(RECEIPT_DOMAIN, start["receipt"], self.keys)
        ours = (start["itemId"], start["seq"], digest, start["chain"], self.name)
        said = receipt and tuple(receipt[f] for f in ("id", "seq", "sha256", "chain", "lane"))
        chained = True
        if receipt and (receipt["seq"] == 1 or (self.last and self.last["seq"] == receipt["seq"] - 1)):
            before = bytes(32) if receipt["seq"] == 1 else bytes.fromhex(self.last["chain"])
            ident = base64.b32hexdecode(receipt["id"].upper() + "======")
            head_digest = hashlib.sha256(head).digest()
            step = b"waystation-lane-1\0" + before + struct.pack("!Q", receipt["seq"]) + ident
            chained = hashlib.sha256(step + head_digest + bytes.fromhex(digest)).hexdigest() == receipt["chain"]
        print("receipt ok" if said == ours and chained else "RECEIPT DOES NOT FIT", flush=True)
        self.last = receipt

    def keep(self, item, data):
        """On stable storage under a name that makes a second delivery of the same item harmless."""
        final, draft = (os.path.join(self.directory, part, item) for part in ("new", "tmp"))
        if os.path.exists(final):
            return
        with open(draft, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.rename(draft, final)
        directory = os.open(os.path.dirname(final), os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--url", required=True)
    options.add_argument("--key", required=True)
    options.add_argument("--dir", required=True)
    options.add_argument("--items", type=int, default=0)
    options.add_argument("--send", metavar="RECIPIENT")
    given = options.parse_args()
    gateway = Gateway(given.url, load_key(given.key), given.dir)
    gateway.login()
    if given.send:
        gateway.submit(gateway.address if given.send == "me" else given.send, sys.stdin.buffer.read())
    gateway.serve(given.items, bool(given.send))


if __name__ == "__main__":
    main()
