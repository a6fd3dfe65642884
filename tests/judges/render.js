// Renders one mail with nodemailer as the unmodified gateway does, and writes it to stdout. argv[2]: JSON changes.
const MailComposer = require('nodemailer/lib/mail-composer');

const changes = JSON.parse(process.argv[2]);
const mail = {
  from: 'me@mail.example',
  to: ['you@there.example', 'bad@there.example'],
  bcc: ['hidden@there.example'],
  subject: 'Grüße',
  inReplyTo: '<1@there.example>',
  references: ['<0@there.example>', '<1@there.example>'],
  headers: { 'X-Protege-Recursion': '3' },
  text: 'Hello\n-- \n.dot\n--_NmP is no boundary\n' + 'long line '.repeat(200) + '\n',
  html: '<p>Hello</p>',
  attachments: [{ filename: 'a.bin', content: Buffer.from(Array.from({ length: 4000 }, (_, n) => n % 256)) }],
  ...changes,
};
const compiled = new MailComposer(mail).compile();
compiled.keepBcc = true; // The unmodified gateway leaves it in.
compiled.build((error, message) => {
  if (error) throw error;
  process.stdout.write(message);
});
