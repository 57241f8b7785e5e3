// Versions of a picture: the same job at another strength, or with another output.

import { jobs } from "./jobs.js";
import { modelOf, queued } from "./service.js";

export const isVersioned = (job) => queued && Boolean(modelOf(job)?.form.anew?.includes("strength"));

// The id of the job that a job is a version of; its own if it is none.
export const firstOf = (job) => (isVersioned(job) && job.continues) || job.id;

// Whether a version is out of date: a newer one is there. That of strength 0 is made only to compare.
export function isPast(job) {
  if (firstOf(job) === job.id || job.kept) return false;
  if (Number(job.strength) === 0) return true;
  return [...jobs.values()].some((other) => other !== job && other.continues === job.continues && other.created > job.created && Number(other.strength) !== 0);
}
