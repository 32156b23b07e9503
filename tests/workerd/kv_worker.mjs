// Performs the calls of KV cases inside workerd and writes down what each gave.

export default {
  async fetch(request, env) {
    const { namespace, calls, state } = await request.json();
    const kv = env[namespace];
    const results = [];
    for (const step of calls) {
      results.push(step.fill === undefined ? await perform(kv, step, state) : await fill(kv, step.fill));
    }
    return Response.json({ results, state });
  },
};

async function perform(kv, step, state) {
  try {
    const result = await kv[step.call](...step.args.map((argument) => argumentOf(argument, state)));
    if (step.call === "list" && result.cursor !== undefined) {
      state.cursors.push(result.cursor);
      result.cursor = { $cursor: true };
    }
    return await written(result);
  } catch (error) {
    return { $error: [error.name, error.message] };
  }
}

async function fill(kv, count) {
  for (let start = 0; start < count; start += 100) {
    const numbers = Array.from({ length: Math.min(100, count - start) }, (_, index) => start + index);
    await Promise.all(numbers.map((number) => kv.put(String(number).padStart(4, "0"), "")));
  }
  return null;
}

// A value of a case as JavaScript has it; everything without a tag is itself.
function argumentOf(value, state) {
  if (Array.isArray(value)) return value.map((item) => argumentOf(item, state));
  if (value === null || typeof value !== "object") return value;
  const tags = Object.keys(value);
  if (tags.length === 1 && tags[0] in TAGS) return TAGS[tags[0]](value[tags[0]], state);
  return Object.fromEntries(tags.map((name) => [name, argumentOf(value[name], state)]));
}

const TAGS = {
  $bytes: (text) => bytesOf(text).buffer,
  $view: ([text, start, end]) => bytesOf(text).subarray(start, end),
  $uint16: (numbers) => Uint16Array.from(numbers),
  $repeat: ([text, count]) => text.repeat(count),
  $repeatBytes: ([byte, count]) => new Uint8Array(count).fill(byte),
  $number: (text) => Number(text),
  $bigint: (text) => BigInt(text),
  $now: (seconds, state) => state.now + seconds,
  $cursor: (number, state) => state.cursors[number - 1],
  $keys: ([first, count]) => Array.from({ length: count }, (_, index) => String(first + index).padStart(4, "0")),
  $response: (text) => new Response(text),
  $circular: () => {
    const value = {};
    value.self = value;
    return value;
  },
  $stream: (chunks) => streamOf(chunks.map(bytesOf)),
  $streamOf: ([byte, count, times]) => streamOf(Array.from({ length: times }, () => new Uint8Array(count).fill(byte))),
  $lockedStream: () => {
    const stream = streamOf([]);
    stream.getReader();
    return stream;
  },
  $brokenStream: ([chunk, name, message]) => brokenStream(bytesOf(chunk), new { TypeError, RangeError }[name](message)),
};

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function streamOf(chunks) {
  return new ReadableStream({
    pull(controller) {
      if (chunks.length === 0) controller.close();
      else controller.enqueue(chunks.shift());
    },
  });
}

function brokenStream(chunk, error) {
  let sent = false;
  return new ReadableStream({
    pull(controller) {
      if (sent) controller.error(error);
      else controller.enqueue(chunk);
      sent = true;
    },
  });
}

// A result as JSON: what JSON cannot say has a tag, and long text only its length and its start.
async function written(value) {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return textOf(value);
  if (value instanceof ArrayBuffer) return { $bytes: base64Of(value) };
  if (value instanceof ReadableStream) return { $stream: base64Of(await new Response(value).arrayBuffer()) };
  if (value instanceof Map) {
    return { $map: await Promise.all([...value].map(async ([key, item]) => [key, await written(item)])) };
  }
  if (Array.isArray(value)) return Promise.all(value.map(written));
  if (typeof value !== "object") return value;
  const members = Object.keys(value).map(async (name) => [name, await written(value[name])]);
  return Object.fromEntries(await Promise.all(members));
}

function textOf(text) {
  return text.length > 2000 ? { $long: [text.length, text.slice(0, 16)] } : text;
}

function base64Of(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}
