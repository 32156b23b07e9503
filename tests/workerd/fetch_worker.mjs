// Performs the steps of fetch cases inside workerd and writes down what each gave.

export default {
  async fetch(request) {
    const { origin, steps } = await request.json();
    const held = { origin };
    const results = [];
    for (const step of steps) {
      try {
        const value = await perform(step, held);
        if (step.as !== undefined) held[step.as] = value;
        else results.push(await written(value, origin));
      } catch (error) {
        results.push({ $error: [error.name ?? "", replaced(String(error.message ?? error), origin, "{origin}")] });
        // What the later steps work on was never made.
        if (step.as !== undefined) break;
      }
    }
    return Response.json(results);
  },
};

async function perform(step, held) {
  if (step.new !== undefined) return new CLASSES[step.new](...given(step.args ?? [], held));
  if (step.static !== undefined) {
    const [type, name] = step.static.split(".");
    return CLASSES[type][name](...given(step.args ?? [], held));
  }
  if (step.fetch !== undefined) {
    const [url, init] = given(step.fetch, held);
    return fetch(url, init);
  }
  if (step.seen !== undefined) return seen(step.seen, held.origin);
  const target = held[step.on];
  return step.get === undefined ? target[step.call](...given(step.args ?? [], held)) : target[step.get];
}

const CLASSES = { AbortController, AbortSignal, Blob, File, FormData, Headers, Request, Response };

// What the origin was asked, with the headers that the step names; each writes its lines in an order of its own.
async function seen(names, origin) {
  const requests = await (await fetch(`${origin}/seen`)).json();
  return requests.map(({ headers, ...rest }) => ({
    ...rest,
    headers: headers
      .map(([name, value]) => [name.toLowerCase(), value])
      .filter(([name]) => names.includes(name))
      .sort(),
  }));
}

// A value of a case as JavaScript has it; everything without a tag is itself.
function given(value, held) {
  if (typeof value === "string") return replaced(value, "{origin}", held.origin);
  if (Array.isArray(value)) return value.map((item) => given(item, held));
  if (value === null || typeof value !== "object") return value;
  const [tag] = Object.keys(value);
  if (tag in TAGS) return TAGS[tag](value[tag], held);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, given(item, held)]));
}

const TAGS = {
  $: (path, held) => path.split(".").reduce((object, name) => object[name], held),
  $bytes: (text) => bytesOf(text),
  $blob: ([text, type]) => new Blob([text], { type }),
  $form: (fields, held) => {
    const form = new FormData();
    for (const [name, value] of fields) form.append(name, given(value, held));
    return form;
  },
  $stream: (chunks) =>
    new ReadableStream({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(typeof chunk === "string" ? bytesOf(chunk) : chunk);
        controller.close();
      },
    }),
  $error: (message) => new Error(message),
};

function bytesOf(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

// A result as JSON; bytes are text with one character for each.
async function written(value, origin) {
  if (typeof value === "string") return replaced(value, origin, "{origin}");
  if (value === undefined) return null;
  if (value === null || typeof value !== "object") return value;
  if (value instanceof ArrayBuffer) return { $bytes: String.fromCharCode(...new Uint8Array(value)) };
  if (value instanceof File) return { $file: [value.name, value.type, await value.text()] };
  if (value instanceof Blob) return { $blob: [await value.text(), value.type] };
  if (value instanceof ReadableStream) return { $stream: value.locked };
  if (typeof value.next === "function" || value instanceof FormData) value = [...value];
  if (Array.isArray(value)) return Promise.all(value.map((item) => written(item, origin)));
  if (value instanceof Error) return { $error: [value.name, value.message] };
  if (value instanceof Response || value instanceof Request) return { $: value.constructor.name };
  return value;
}

function replaced(text, from, to) {
  return text.replaceAll(from, to);
}
