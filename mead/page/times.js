// Times in a person's words.

const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];

const short = (seconds) => (seconds >= 1.5 * 86_400 ? `${Math.round(seconds / 86_400)} days` : seconds >= 5400 ? `${Math.round(seconds / 3600)} h` : `${Math.max(1, Math.round(seconds / 60))} min`);

export function duration(seconds) {
  const [unit, length] = UNITS.find(([, one]) => seconds >= 1.5 * one) ?? UNITS.at(-1);
  const number = Math.max(1, Math.round(seconds / length));
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

// When a finished picture goes.
export function goes(job, ttl) {
  if (job.kept) return "kept";
  const end = job.expires_at ? Date.parse(job.expires_at) : Date.parse(job.finished_at) + 1000 * ttl;
  return end > Date.now() ? `goes in ${short((end - Date.now()) / 1000)}` : "goes now";
}

export const ago = (date) => `${duration((Date.now() - Date.parse(date)) / 1000)} ago`;
