// Asking the API. Every call ends: with an answer, or with an error in words.

import { askForKey, key } from "./key.js";

export const PATIENCE = 10_000; // milliseconds for an answer
export const UPLOAD = 120_000; // for one to a form with pictures

class ApiError extends Error {
  // status: 0 if there was no answer; field: the one at fault, if any.
  constructor(message, status = 0, field = null) {
    super(message);
    Object.assign(this, { status, field });
  }
}

// Asks, and asks for a key where one is needed. With `stream`, only the start of the answer has to come in time.
export async function call(path, { timeout = PATIENCE, stream = false, signal, headers, ...options } = {}) {
  for (;;) {
    const sent = key();
    const answer = await reach(path, { timeout, stream, signal, ...options, headers: { ...headers, ...(sent && { "X-API-Key": sent }) } });
    if (answer.ok) return answer;
    const { message, field } = await answer.json().catch(() => proxy(answer));
    if (answer.status !== 401) throw new ApiError(message, answer.status, field);
    if (sent === key()) await askForKey(sent ? "This key is not known here." : "This service asks for a key.");
  }
}

export const ask = async (path, options) => (await call(path, options)).json().catch(() => { throw unreached(); });

// Says that there was no answer.
function unreached(why = "The server cannot be reached. Try again soon.") {
  dispatchEvent(new Event("unreached"));
  return new ApiError(why);
}

// Other words than JSON are of a proxy that does not reach the server, or refuses.
function proxy({ status }) {
  if (status > 501) throw unreached();
  return { message: `The server answered ${status}.` };
}

async function reach(path, { timeout, stream, signal, ...options }) {
  const hand = new AbortController();
  signal?.addEventListener("abort", () => hand.abort());
  const timer = setTimeout(() => hand.abort(), timeout);
  try {
    const answer = await fetch(path, { ...options, signal: hand.signal });
    if (stream) clearTimeout(timer);
    return answer;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreached(hand.signal.aborted ? "The server does not answer in time. Try again soon." : undefined);
  }
}
