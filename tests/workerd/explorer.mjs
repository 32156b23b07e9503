// Cloudflare's REST API for KV on this machine: Miniflare's local explorer behind a proxy.
//
// Usage: node explorer.mjs TOKEN. Prints one line of JSON, {"base": "http://127.0.0.1:PORT/client/v4"}, once it is
// ready, and ends at SIGTERM. The namespace is "namespace"; any account will do. The explorer knows no
// accounts and no tokens: the proxy takes the account out of the path and checks the token.

import http from "node:http";
import { Miniflare } from "miniflare";

const API = "/client/v4";
const EXPLORER = "/cdn-cgi/explorer/api";
const token = process.argv[2];

const miniflare = new Miniflare({
  modules: true,
  script: "export default {}",
  kvNamespaces: { KV: "namespace" },
  unsafeLocalExplorer: true,
});
const explorer = await miniflare.ready;

const proxy = http.createServer((request, response) => {
  if (request.headers.authorization !== `Bearer ${token}`) {
    const errors = [{ code: 10000, message: "Authentication error" }];
    response.writeHead(403, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ success: false, errors, messages: [], result: null }));
    return;
  }
  const path = request.url.replace(new RegExp(`^${API}/accounts/[^/]+`), EXPLORER);
  const headers = { ...request.headers, host: explorer.host };
  const target = { host: explorer.hostname, port: explorer.port, method: request.method, path, headers };
  const forwarded = http.request(target, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  forwarded.on("error", (error) => response.destroy(error));
  response.on("close", () => forwarded.destroy());
  request.pipe(forwarded);
});

proxy.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ base: `http://127.0.0.1:${proxy.address().port}${API}` }));
});

process.on("SIGTERM", async () => {
  proxy.closeAllConnections();
  proxy.close();
  await miniflare.dispose();
});
