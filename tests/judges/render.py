"""Renders one mail with Python's email package, LF line ends, and writes it to stdout. argv[1]: text, argv[2]: file."""
import sys
from email.message import EmailMessage
from email.utils import localtime, make_msgid

message = EmailMessage()
message["From"] = "Me <me@mail.example>"
message["To"] = "you@there.example, bad@there.example"
message["Bcc"] = "hidden@there.example"
message["Subject"] = "Grüße"
message["Date"] = localtime()
message["Message-ID"] = make_msgid(domain="mail.example")
message.set_content(sys.argv[1])
message.add_alternative("<p>Hello</p>", subtype="html")
message.add_attachment(sys.argv[2].encode() * 500, maintype="application", subtype="pdf", filename="a.pdf")
sys.stdout.buffer.write(message.as_bytes())
