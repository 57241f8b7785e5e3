// Before and after: two pictures of one size, one over the other, and a slider between them.

import { $, make } from "./dom.js";
import { running, wordsOf } from "./jobs.js";

// Shows a finished job's pictures in `place`; false if there is nothing to compare.
export function compare(job, place) {
  const before = job.before ?? (job.output === "pair" ? job.address : null);
  if (!job.file || !before || running(job)) return false;
  if (place.dataset.of === job.address) return true;
  place.dataset.of = job.address;
  const both = before === job.address;
  const after = $(".after", place);
  if (!both && place.dataset.before === before && after) { // another version: the slider stays
    Object.assign(after, { src: job.address, alt: `After: ${wordsOf(job)}` });
    return true;
  }
  place.dataset.before = before;
  const one = (src, side) => make("img", { src, alt: `${side}: ${wordsOf(job)}`, className: both ? `half ${side.toLowerCase()}` : side.toLowerCase() });
  const [first, second] = [one(before, "Before"), one(job.address, "After")];
  const fit = make("div", { className: "fit" }, second, first);
  second.addEventListener("load", () => fit.style.setProperty("--ratio", second.naturalWidth / second.naturalHeight / (both ? 2 : 1)));
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Before and after" });
  const show = () => fit.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", show);
  show();
  fit.append(make("span", { className: "handle" }), slider);
  place.replaceChildren(fit);
  return true;
}
