// Shows certificates to the protocol's own verifier: `{"key": hex, "certificates": [...]}` on stdin, one boolean for
// each on stdout.

import { readFileSync } from "node:fs";

import { verifyCertificate } from "@mnemom/agent-integrity-protocol";

const { key, certificates } = JSON.parse(readFileSync(0, "utf8"));
const publicKey = Uint8Array.from(Buffer.from(key, "hex"));
const answers = [];
for (const certificate of certificates) {
  answers.push((await verifyCertificate(certificate, publicKey)).valid);
}
process.stdout.write(JSON.stringify(answers));
