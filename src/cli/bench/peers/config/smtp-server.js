// A relay as a script: npm smtp-server, one file for each message.
//
// What its 250 is worth: the message's file is synced, renamed into place, and its directory is synced before the
// answer; nothing is left out that a power cut would show. The library does the SMTP and takes no part in storing.
'use strict';
const fs = require('fs/promises');
const path = require('path');
const { createWriteStream } = require('fs');
const { pipeline } = require('stream/promises');
const { SMTPServer } = require('smtp-server');

const [host, port, queue] = process.argv.slice(2);

async function main() {
  const directory = await fs.open(queue, 'r');
  let next = 0;

  async function store(stream) {
    const name = path.join(queue, String(next++));
    const file = createWriteStream(name + '.new', { flush: true });
    await pipeline(stream, file);
    await fs.rename(name + '.new', name);
    await directory.sync();
  }

  const server = new SMTPServer({
    name: 'smtp-server.bench.test',
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    maxClients: 2000,
    size: 64 * 1024 * 1024,
    onRcptTo(address, session, done) {
      done(address.address.endsWith('@bench.test') ? undefined : new Error('who is that?'));
    },
    onData(stream, session, done) {
      store(stream).then(() => done(), done);
    },
  });
  server.on('error', (error) => { console.error(error.message); });
  server.listen(Number(port), host);
}

main().catch((error) => { console.error(error); process.exit(1); });
