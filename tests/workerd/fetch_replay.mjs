// Replays fetch cases on Cloudflare's runtime: JSON cases on stdin, what each step gave on stdout.
//
// Every case is one request to a worker, and has an origin of its own whose answers are bytes of the case.

import { readFileSync } from "node:fs";
import net from "node:net";

import { Miniflare } from "miniflare";

const HANG = "hang";
const NOT_FOUND = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const cases = JSON.parse(readFileSync(0, "utf8"));
const runtime = new Miniflare({
  modules: true,
  script: readFileSync(new URL("fetch_worker.mjs", import.meta.url), "utf8"),
  compatibilityDate: "2026-04-01",
});
const answers = {};
try {
  await Promise.all(cases.map(async (one) => (answers[one.id] = await replay(one))));
} finally {
  await runtime.dispose();
}
process.stdout.write(JSON.stringify(answers));

async function replay({ origin, steps }) {
  const server = await listening(origin ?? {});
  const body = JSON.stringify({ origin: `http://127.0.0.1:${server.address().port}`, steps });
  try {
    return await (await runtime.dispatchFetch("http://worker/", { method: "POST", body })).json();
  } finally {
    server.close();
  }
}

function listening(routes) {
  const seen = [];
  const server = net.createServer((socket) => {
    let data = "";
    socket.setEncoding("latin1");
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      data += chunk;
      const request = parsed(data);
      if (request === undefined) return;
      data = "";
      if (request.target === "/seen") {
        const text = Buffer.from(JSON.stringify(seen)).toString("latin1");
        socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`, "latin1");
        return;
      }
      seen.push(request);
      const answer = routes[request.target.split("?")[0]] ?? NOT_FOUND;
      if (answer !== HANG) socket.end(answer, "latin1");
    });
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

// The request in `data` once all of it is here.
function parsed(data) {
  const end = data.indexOf("\r\n\r\n");
  if (end === -1) return undefined;
  const [start, ...lines] = data.slice(0, end).split("\r\n");
  const headers = lines.map((line) => line.split(/: */s, 2));
  const value = (name) => headers.find(([other]) => other.toLowerCase() === name)?.[1];
  const rest = data.slice(end + 4);
  const length = Number(value("content-length") ?? 0);
  let body = rest.slice(0, length);
  if (value("transfer-encoding") !== undefined) {
    if (!rest.endsWith("0\r\n\r\n")) return undefined;
    body = dechunked(rest);
  } else if (rest.length < length) {
    return undefined;
  }
  const [method, target] = start.split(" ");
  return { method, target, headers, body };
}

function dechunked(text) {
  const size = parseInt(text, 16);
  const start = text.indexOf("\r\n") + 2;
  return size === 0 ? "" : text.slice(start, start + size) + dechunked(text.slice(start + size + 2));
}
