// This window's part in following jobs: says what it looks at, and takes in what is new.

import { $, say } from "./dom.js";
import { Follower } from "./follower.js";
import { isWaiting } from "./insist.js";
import { chosen, jobs, running, take } from "./jobs.js";
import { key } from "./key.js";
import { models, queued, service } from "./service.js";

const AGAIN = 10_000; // milliseconds between two words to the follower, so that it knows of this window

let send = () => {};

export function connect() {
  if (window.SharedWorker) {
    const worker = new SharedWorker(new URL("shared_worker.js", import.meta.url), { type: "module", name: "mead" });
    worker.port.onmessage = ({ data }) => hear(data);
    worker.onerror = () => { worker.onerror = null; alone(); };
    send = (state) => worker.port.postMessage(state);
  } else alone();
  for (const event of ["visibilitychange", "key", "pageshow"]) addEventListener(event, () => report(true), true);
  addEventListener("pagehide", () => send({ bye: true }));
  addEventListener("unreached", () => { showHealth({ ok: false, reached: false }); report(true); });
  setInterval(report, AGAIN);
  report();
}

// Without a worker for all windows, this one follows by itself.
function alone() {
  const follower = new Follower((_, message) => hear(message));
  send = (state) => (state.bye ? follower.remove(window) : follower.update(window, state));
  report();
}

// now: whether the follower should look at once.
export function report(now = false) {
  const job = chosen();
  send({
    base: document.baseURI, key: key(), queued, needsKey: service.needs_key, now: now === true,
    visible: !document.hidden || isWaiting(), busy: [...jobs.values()].some(running),
    stage: job && running(job) && queued ? job.id : null, seq: job?.seq ?? 0,
  });
}

function hear({ records = [], change, health }) {
  for (const record of records) take(record);
  if (change) {
    take(change);
    if (!running(change)) report(true); // the record says more
  }
  if (health) showHealth(health);
}

// What the service says of itself, as those would who use it.
function inWords(message) {
  const without = message.match(/no live worker serves/g) ?? [];
  return without.length === models.length ? "No inference server is running: nothing can be made now." : `Not everything works here: ${message}.`;
}

function showHealth(health) {
  const { ok, reached, message } = health;
  const outage = $("#outage");
  const words = reached ? inWords(message) : "The server does not answer. This page goes on by itself when it is back.";
  const healed = ok && !outage.hidden;
  say(outage, ok ? "" : words);
  outage.hidden = ok;
  dispatchEvent(new CustomEvent("health", { detail: health }));
  if (healed) for (const { id } of jobs.values()) take({ id }); // what could not be loaded is asked for again
}
