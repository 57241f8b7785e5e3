// The pictures of jobs, so far and finished. /jobs/ID/image may redirect to an object store, which this page may
// not ask; /jobs/ID/preview sends the picture itself, the finished one too.

import { call } from "./api.js";
import { take, wordsOf } from "./jobs.js";
import { queued } from "./service.js";

const AT_ONCE = 3; // others shall find a connection

const waiting = [];
let loading = 0;

function next() {
  if (loading >= AT_ONCE || !waiting.length) return;
  loading++;
  waiting.shift()().finally(() => { loading--; next(); });
}

// Loads a job's finished picture, once: job.file and job.address.
export function load(job) {
  job.loading ??= new Promise((done) => {
    waiting.push(async () => {
      try {
        const blob = queued ? await (await call(`jobs/${job.id}/preview`)).blob() : fromBase64(job.image);
        job.file = new File([blob], `${slug(job)}.png`, { type: "image/png" });
        show(job, job.file);
      } catch (error) {
        if (error.status === 404) take({ id: job.id, status: "lost", message: error.message });
        job.loading = null; // it may be asked for again
      }
      done();
    });
    next();
  });
  return job.loading;
}

// Looks for the picture so far.
export async function preview(job) {
  const answer = await call(`jobs/${job.id}/preview`, { timeout: 5000 }).catch(() => null); // there will be another
  const blob = await answer?.blob(); // read to the end even if it says that there is none: else the connection is lost
  if (answer?.status !== 200 || job.file) return;
  job.sofar = blob;
  show(job, job.sofar);
}

// A picture that was never finished can be kept too.
export const fileOf = (job) => job.file ?? (job.sofar && new File([job.sofar], `${slug(job)}-unfinished.png`, { type: "image/png" }));

function show(job, blob) {
  URL.revokeObjectURL(job.address);
  job.address = URL.createObjectURL(blob);
  take({ id: job.id, shown: (job.shown ?? 0) + 1 });
}

const fromBase64 = (text) => new Blob([Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0))], { type: "image/png" });

function slug(job) {
  const words = wordsOf(job).toLowerCase().match(/\p{L}+|\p{N}+/gu)?.slice(0, 6).join("-") ?? "picture";
  return `${words}-${job.id.slice(0, 4)}${job.id.slice(-2)}`;
}
