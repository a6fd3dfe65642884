// Verifies the DKIM signatures of a message with npm mailauth: message on stdin, key records as JSON in argv[2].
// Prints one verdict per signature, top to bottom.
const { dkimVerify } = require('mailauth/lib/dkim/verify');

const records = JSON.parse(process.argv[2]);
const resolver = async (name, type) => {
  const record = records[name];
  if (type === 'TXT' && record) return [[record]];
  const error = new Error('not found');
  error.code = 'ENOTFOUND';
  throw error;
};

const chunks = [];
process.stdin.on('data', (chunk) => chunks.push(chunk));
process.stdin.on('end', async () => {
  const { results } = await dkimVerify(Buffer.concat(chunks), { resolver });
  for (const one of results) console.log(`${one.algo} ${one.status.result} ${one.status.comment || ''}`.trim());
});
