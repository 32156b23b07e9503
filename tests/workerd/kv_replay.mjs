// Replays KV cases on Cloudflare's runtime: JSON cases on stdin, what each call gave on stdout.
//
// Every case has a namespace of its own. A case with `time` runs on a fake clock, which also lowers the limit of
// values to 1024 bytes, so only cases that need it have it. Cases that start the runtime again have one on disk.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { _enableControlEndpoints, KV_PLUGIN_NAME, Miniflare } from "miniflare";

const WORKER = readFileSync(new URL("kv_worker.mjs", import.meta.url), "utf8");
const INTO_THE_SECOND_MS = 750;
const AT_ONCE = 4;

class Runtime {
  #namespaces;
  #folder;
  #miniflare;
  #version = 0;

  constructor(namespaces, folder) {
    this.#namespaces = namespaces;
    this.#folder = folder;
    this.#miniflare = new Miniflare(this.#options());
  }

  #options() {
    return {
      modules: true,
      script: WORKER,
      compatibilityDate: "2026-04-01",
      kvNamespaces: this.#namespaces,
      kvPersist: this.#folder ?? false,
      bindings: { VERSION: this.#version },
    };
  }

  async perform(work) {
    const response = await this.#miniflare.dispatchFetch("http://worker/", { method: "POST", body: JSON.stringify(work) });
    return response.json();
  }

  async control(namespace, name, ...args) {
    const objects = await this.#miniflare._getInternalDurableObjectNamespace(KV_PLUGIN_NAME, "kv:ns", "KVNamespaceObject");
    const stub = objects.get(objects.idFromName(namespace));
    const cf = { miniflare: { name: namespace, controlOp: { name, args } } };
    await (await stub.fetch("http://placeholder/", { cf })).arrayBuffer();
  }

  async again(what) {
    this.#version += 1;
    if (what === "binding") return this.#miniflare.setOptions(this.#options());
    await this.dispose();
    this.#miniflare = new Miniflare(this.#options());
  }

  dispose() {
    return this.#miniflare.dispose();
  }
}

async function replay(runtime, namespace, { steps, time }) {
  const state = { now: Math.floor(Date.now() / 1000), cursors: [] };
  if (time) await runtime.control(namespace, "enableFakeTimers", state.now * 1000 + INTO_THE_SECOND_MS);
  const given = { now: state.now, results: [] };
  let calls = [];
  const flush = async () => {
    if (calls.length === 0) return;
    const answer = await runtime.perform({ namespace, calls, state });
    Object.assign(state, answer.state);
    given.results.push(...answer.results);
    calls = [];
  };
  for (const step of steps) {
    if (step.advance === undefined && step.again === undefined) {
      calls.push(step);
      continue;
    }
    await flush();
    if (step.advance !== undefined) await runtime.control(namespace, "advanceFakeTime", step.advance * 1000);
    else await runtime.again(step.again);
  }
  await flush();
  return given;
}

async function replayAll(cases, atOnce, folder) {
  const names = cases.map((_, number) => `KV${number}`);
  const runtime = new Runtime(names, folder);
  const answers = {};
  const rest = cases.entries();
  const lane = async () => {
    for (const [number, one] of rest) answers[one.id] = await replay(runtime, names[number], one);
  };
  try {
    await Promise.all(Array.from({ length: atOnce }, lane));
  } finally {
    await runtime.dispose();
  }
  return answers;
}

_enableControlEndpoints();
const cases = JSON.parse(readFileSync(0, "utf8"));
const startsAgain = ({ steps }) => steps.some((step) => step.again !== undefined);
const folder = mkdtempSync(path.join(tmpdir(), "kv-replay-"));
try {
  const [ordinary, again] = [cases.filter((one) => !startsAgain(one)), cases.filter(startsAgain)];
  const answers = await Promise.all([replayAll(ordinary, AT_ONCE), replayAll(again, 1, folder)]);
  process.stdout.write(JSON.stringify(Object.assign({}, ...answers)));
} finally {
  rmSync(folder, { recursive: true });
}
