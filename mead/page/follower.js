// Follows the jobs of all windows of a browser, which opens only six connections to a server: one list for the
// jobs of a key, and a stream of events for each picture that somebody looks at, but never more than STREAMS.
// Runs in a SharedWorker, or in the window where there is none.

import { events } from "./sse.js";

const STREAMS = 2;
const TICK = 2000; // milliseconds
const IDLE = 5; // ticks between two lists while nothing runs
const PATIENCE = 5000; // milliseconds for an answer
const GONE = 30_000; // milliseconds without a word from a window, after which it is closed
const LISTED = 40; // jobs

export class Follower {
  // tell: called with a window and a message: {records} of jobs, a {change} of one, or the {health} of the service.
  constructor(tell) {
    this.tell = tell;
    this.windows = new Map(); // window → {base, key, queued, needsKey, visible, busy, stage, seen}
    this.streams = new Map(); // job's id → AbortController
    this.health = { ok: true };
    this.ticks = 0;
  }

  // What a window looks at: the job on its stage, if that runs, and whether others do.
  update(window, state) {
    const known = this.windows.has(window);
    this.windows.set(window, { ...state, seen: Date.now() });
    if (!known) this.tell(window, { health: this.health });
    if (!known || state.now) this.tick(true);
    else this.stream();
  }

  remove(window) {
    this.windows.delete(window);
  }

  // The windows that are looked at.
  active() {
    for (const [window, { seen }] of this.windows) if (seen < Date.now() - GONE) this.windows.delete(window);
    return [...this.windows].filter(([, state]) => state.visible);
  }

  async tick(now = false) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tick(), TICK);
    if (!this.active().length || (this.looking && !now)) return;
    this.looking = true;
    try {
      this.stream();
      await Promise.all([this.check(now), this.list(now || this.ticks++ % IDLE === 0)]);
    } finally {
      this.looking = false;
    }
  }

  // Asks whether the service can work, and says so when that changes, or always.
  async check(always = false) {
    const [, { base, queued } = {}] = this.active()[0] ?? [];
    if (!base) return;
    let health;
    try {
      const answer = await fetch(new URL(queued ? "readyz" : "healthz", base), { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
      const { message } = await answer.json();
      health = answer.ok ? { ok: true } : { ok: false, reached: true, message };
    } catch {
      health = { ok: false, reached: false };
    }
    const back = health.ok && !this.health.ok;
    const same = JSON.stringify(health) === JSON.stringify(this.health);
    this.health = health;
    if (!same || always) for (const [window] of this.active()) this.tell(window, { health });
    if (back) await this.list(true);
  }

  // Lists the newest jobs of each key: where something runs, or at times.
  async list(all) {
    const keys = new Map();
    for (const [window, state] of this.active()) {
      if (!state.queued || (state.needsKey && !state.key)) continue;
      const group = keys.get(state.key) ?? { base: state.base, busy: false, windows: [] };
      group.windows.push(window);
      group.busy ||= state.busy;
      keys.set(state.key, group);
    }
    await Promise.all([...keys].map(async ([key, { base, busy, windows }]) => {
      if (!busy && !all) return;
      const answer = await fetch(new URL(`jobs?limit=${LISTED}`, base), { headers: key ? { "X-API-Key": key } : {}, signal: AbortSignal.timeout(PATIENCE) }).catch(() => null);
      if (!answer?.ok) return; // the check says why
      const { jobs } = await answer.json();
      for (const window of windows) this.tell(window, { records: jobs });
    }));
  }

  // Opens and closes streams, so that there is one for each job on a stage.
  stream() {
    const wanted = new Map();
    for (const [, { stage, base, key, seq }] of this.active()) if (stage) wanted.set(stage, { base, key, seq });
    for (const [id, hand] of this.streams) if (!wanted.has(id)) hand.abort();
    for (const [id, how] of wanted) if (!this.streams.has(id) && this.streams.size < STREAMS) this.hear(id, how);
  }

  say(id, change) {
    for (const [window, { stage }] of this.active()) if (stage === id) this.tell(window, { change: { ...change, id } });
  }

  async hear(id, { base, key, seq }) {
    const hand = new AbortController();
    this.streams.set(id, hand);
    try {
      const headers = { ...(key && { "X-API-Key": key }), ...(seq > 0 && { "Last-Event-ID": seq }) };
      const answer = await fetch(new URL(`jobs/${id}/events`, base), { headers, signal: hand.signal });
      if (answer.status === 404) this.say(id, { status: "lost", message: "it is not known here any more" });
      if (!answer.ok) return;
      for await (const { kind, id: event, data } of events(answer)) {
        if (kind === "closing") return;
        this.say(id, { ...data, seq: Number(event) });
      }
    } catch {
      if (!hand.signal.aborted) this.check(); // is the server lost?
    } finally {
      this.streams.delete(id);
    }
  }
}
