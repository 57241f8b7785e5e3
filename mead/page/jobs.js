// The jobs that this window knows, and which of them is on the stage.

import { queued } from "./service.js";

export const jobs = new Map(); // by id
const listeners = new Set();
let onStage = null;

export const STATES = { queued: "Waiting", processing: "Running", succeeded: "Done", failed: "Failed", cancelled: "Cancelled", lost: "Lost" };

export const running = (job) => job.status === "queued" || job.status === "processing";

export const chosen = () => jobs.get(onStage) ?? null;

// Calls back with each job that has changed, and with none when another is chosen.
export const onChange = (listener) => listeners.add(listener);

const tell = (job) => { for (const listener of listeners) listener(job); };

// Takes in what is new of a job. An older record changes nothing.
export function take(given) {
  const news = given.created_at ? { kept: false, ...given } : given; // a record says it only of those that are
  const job = jobs.get(news.id) ?? { created: Date.now() };
  if ((news.seq ?? job.seq) < job.seq || job.gone) return job;
  if (news.seq !== undefined && news.seq === job.seq && !running(job) && Boolean(news.kept) === Boolean(job.kept) && (job.finished_at || !news.finished_at)) return job;
  if (news.created_at) job.created = Date.parse(news.created_at);
  Object.assign(job, news);
  if (news.created_at && !("eta" in news)) delete job.eta;
  jobs.set(job.id, job);
  tell(job);
  return job;
}

export function choose(id) {
  if (onStage === id) return;
  onStage = id;
  const address = `${location.pathname}${location.search}${id && queued ? `#${id}` : ""}`;
  history.replaceState(null, "", address); // a reload, or whoever has the link, finds it
  tell(null);
}

// What a job was asked for, in words: an edit by sliders or a mapper needs no prompt.
export const wordsOf = (job) => job.prompt || [job.mapper, job.sliders].filter(Boolean).join(", ");

// Pictures that were sent with a job, by field, while this page is open.
export const sent = new Map();

// Jobs of the same form, as their seeds go up.
export const groupOf = (job) => (job.group ? [...jobs.values()].filter((one) => one.group === job.group).sort((a, b) => (a.id < b.id ? -1 : 1)) : [job]);
