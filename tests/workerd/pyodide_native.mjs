// What workerd gives a Python Worker and Node does not: bindings by their class names, contexts, and events.

const text = (bytes) => Buffer.from(bytes).toString("base64");
const bytes = (base64) => Buffer.from(base64, "base64");

// Chunks from Miniflare are Buffers, which Pyodide does not know.
const plain = (value) => value instanceof ReadableStream
  ? value.pipeThrough(new TransformStream({ transform: (chunk, to) => to.enqueue(new Uint8Array(chunk)) }))
  : value;

// The SDK tells bindings by the names of their classes.
export class KvNamespace {
  #real;
  constructor(real) { this.#real = real; }
  async get(...args) { return plain(await this.#real.get(...args)); }
  async getWithMetadata(...args) {
    const found = await this.#real.getWithMetadata(...args);
    return found instanceof Map ? found : { ...found, value: plain(found.value) };
  }
  put(...args) { return this.#real.put(...args); }
  delete(...args) { return this.#real.delete(...args); }
  list(...args) { return this.#real.list(...args); }
}

export class WorkerQueue {
  sent = [];
  async send(body, options) { this.sent.push([body, options ?? null]); }
  async sendBatch(messages, options) { this.sent.push([[...messages], options ?? null]); }
}

export class ExecutionContext {
  props = {};
  promises = [];
  // A Python awaitable dies with the call unless it is copied.
  waitUntil(promise) { this.promises.push(Promise.resolve(promise?.copy ? promise.copy() : promise)); }
  passThroughOnException() {}
  async settled() {
    const outcomes = [];
    for (const promise of this.promises) {
      outcomes.push(...(await Promise.allSettled([promise])));
    }
    return outcomes.map(({ status }) => status);
  }
}

export function helper(cloudflare) {
  return {
    cloudflareWorkersModule: cloudflare,
    cloudflareSocketsModule: {},
    doAnImport: (name) => import(name),
    patchWaitUntil: () => {}, // our contexts take Python awaitables already
    patch_env_helper: () => { throw new Error("not here"); },
  };
}

// What the step gave; `tasks` of a request is a promise of how the tasks that it left behind ended.
export async function take(step, call, context) {
  if (step.fetch) {
    return answer(step.fetch, await request(step.fetch, call), context);
  }
  const [event, argument] = step.scheduled ? ["scheduled", new ScheduledController(step.scheduled)]
    : ["queue", new QueueController(step.queue)];
  let outcome = "ok";
  try {
    await call(event, argument);
  } catch (error) {
    outcome = `exception: ${error.message.trim().split("\n").at(-1)}`;
  }
  const tasks = await context.settled();
  return { outcome, tasks, verdicts: argument.verdicts() };
}

async function request({ url, method, headers, body }, call) {
  const init = { method: method ?? "GET", headers: headers ?? [] };
  if (body !== undefined) {
    init.body = bytes(body);
  }
  return call("fetch", new Request(url, init));
}

async function answer({ cancelAfter }, response, context) {
  const head = { status: response.status, statusText: response.statusText, headers: [...response.headers] };
  if (cancelAfter === undefined) {
    const body = text(await response.arrayBuffer());
    return { ...head, body, tasks: context.settled() };
  }
  const reader = response.body.getReader();
  const chunks = [];
  while (chunks.length < cancelAfter) {
    chunks.push((await reader.read()).value);
  }
  await reader.cancel();
  return { ...head, body: text(Buffer.concat(chunks)), tasks: context.settled() };
}

class ScheduledController {
  refused = false;
  constructor({ cron, scheduledTime }) { Object.assign(this, { cron, scheduledTime }); }
  noRetry() { this.refused = true; }
  verdicts() { return { refused: this.refused }; }
}

class QueueMessage {
  verdict = null;
  constructor({ id, body, attempts }) {
    Object.assign(this, { id, body, attempts, timestamp: new Date(1700000000000) });
  }
  ack() { this.verdict = "ack"; }
  retry(options) { this.verdict = options ? ["retry", options] : "retry"; }
}

class QueueController {
  all = null;
  constructor({ queue, messages }) {
    this.queue = queue;
    this.messages = messages.map((message) => new QueueMessage(message));
  }
  ackAll() { this.all = "ack"; }
  retryAll(options) { this.all = options ? ["retry", options] : "retry"; }
  verdicts() { return { all: this.all, each: this.messages.map(({ verdict }) => verdict) }; }
}

export async function contents(namespace) {
  const { keys } = await namespace.list();
  return Promise.all(keys.map(async ({ name, expiration, metadata }) => [
    name, text(await namespace.get(name, "arrayBuffer")), metadata ?? null, expiration ?? null,
  ]));
}
