// Versions of a picture: the same job at another strength, or with another output; and forms that were changed live.

import { jobs, take } from "./jobs.js";
import { modelOf, queued, service } from "./service.js";

const NAME = "mead.replaced";
const replaced = new Set(JSON.parse(sessionStorage.getItem(NAME) ?? "[]")); // forms, by the id of their first job

export const spent = new Set(); // jobs of which the service has said that they cannot go on

export const isVersioned = (job) => queued && Boolean(modelOf(job)?.form.anew?.includes("strength"));

// The id of the job that a job is a version of; its own if it is none.
export const firstOf = (job) => (isVersioned(job) && job.continues) || job.id;

// Whether the service still has what a job, or a version of it, is made of again.
export function goesOn(job) {
  const first = firstOf(job);
  const end = Date.parse((jobs.get(first) ?? job).finished_at) + 1000 * service.latents_ttl;
  return job.status === "succeeded" && !spent.has(first) && !(end < Date.now());
}

export const formOf = (job) => job.group ?? job.id;

// Takes a form's pictures for out of date.
export function replace(form) {
  replaced.add(form);
  sessionStorage.setItem(NAME, JSON.stringify([...replaced]));
  for (const job of jobs.values()) if (formOf(job) === form) take({ id: job.id });
}

// Whether a version is out of date: a newer one is there. That of strength 0 is made only to compare.
export function isPast(job) {
  if (job.kept) return false;
  if (firstOf(job) === job.id) return replaced.has(formOf(job));
  if (Number(job.strength) === 0) return true;
  return [...jobs.values()].some((other) => other !== job && other.continues === job.continues && other.created > job.created && Number(other.strength) !== 0);
}
