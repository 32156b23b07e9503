// Handlers in Pyodide with Cloudflare's own Python SDK, Node's fetch classes and workerd's KV.
//
// Usage: node pyodide_run.mjs PLAN.json RESULT.json. The plan:
//   folders   [[folder on this machine, path in Pyodide], ...]; each path is put on sys.path
//   modules   {name: source}: modules that exist only there, such as the main file of a Worker
//   checks    {name: source of an async function `check()`}: its result is the result
//   runs      [{name, main, kv, vars, steps, overlapping}, ...]: `main` is a module with a class Default; each run has
//             its own KV namespace, bound under the name `kv`. A step is {fetch: {url, method?, headers?, body?,
//             cancelAfter?}}, {scheduled: {cron, scheduledTime}} or {queue: {queue, messages}}; bodies are base64.
//             Tasks that a request leaves behind are waited for before the next step, or at the end if `overlapping`.
// The result: {checks: {name: value}, runs: {name: {steps: [...], kv: [[name, value, metadata, expiration], ...]}}}.

import { readFileSync, writeFileSync } from "node:fs";
import { Miniflare } from "miniflare";
import { loadPyodide } from "pyodide";
import * as native from "./pyodide_native.mjs";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const bindings = plan.runs.map((_, index) => `KV${index}`);
const miniflare = new Miniflare({ modules: true, script: "export default {}", kvNamespaces: bindings });
const [pyodide] = await Promise.all([loadPyodide(), miniflare.ready]);

const cloudflare = { env: {}, waitUntil: (promise) => cloudflare.ctx.waitUntil(promise), ctx: null };
pyodide.registerJsModule("_pyodide_entrypoint_helper", native.helper(cloudflare));
pyodide.registerJsModule("_cloudflare_compat_flags", { python_request_headers_preserve_commas: true });
for (const [folder, path] of plan.folders) {
  pyodide.FS.mkdirTree(path);
  pyodide.mountNodeFS(path, folder);
}
pyodide.FS.mkdirTree("/modules");
for (const [name, source] of Object.entries(plan.modules)) {
  pyodide.FS.writeFile(`/modules/${name}.py`, source);
}
pyodide.globals.set("paths", pyodide.toPy(["/modules", ...plan.folders.map(([, path]) => path)]));
pyodide.runPython("import sys; sys.dont_write_bytecode = True; sys.path[:0] = paths");
const dispatch = pyodide.pyimport("pyodide_dispatch").dispatch;

const results = { checks: {}, runs: {} };
for (const [name, source] of Object.entries(plan.checks)) {
  const scope = pyodide.toPy({ __name__: name });
  await pyodide.runPythonAsync(source, { globals: scope });
  const value = await scope.get("check")();
  results.checks[name] = value?.toJs ? value.toJs({ dict_converter: Object.fromEntries }) : value;
}
for (const [index, run] of plan.runs.entries()) {
  const namespace = await miniflare.getKVNamespace(bindings[index]);
  const queue = new native.WorkerQueue();
  cloudflare.env = { [run.kv]: new native.KvNamespace(namespace), QUEUE: queue, ...run.vars };
  const steps = [];
  for (const step of run.steps) {
    cloudflare.ctx = new native.ExecutionContext();
    const call = (event, argument) => dispatch(run.main, event, argument, cloudflare.ctx, cloudflare.env);
    const took = await native.take(step, call, cloudflare.ctx);
    if (!run.overlapping) {
      await took.tasks;
    }
    steps.push(took);
  }
  for (const took of steps) {
    took.tasks = await took.tasks;
  }
  results.runs[run.name] = { steps, sent: queue.sent, kv: await native.contents(namespace) };
}
writeFileSync(process.argv[3], JSON.stringify(results));
await miniflare.dispose();
process.exit(0); // Pyodide keeps timers
