// The few choices that are always in sight: how good, which shape, how many, and what comes back.

import { button, changed, make } from "./dom.js";
import { presets } from "./controls.js";
import { has } from "./service.js";

const COUNTS = [1, 2, 4, 9];
const RATIOS = [["square", 1, 1], ["wide", 4, 3], ["tall", 3, 4], ["very wide", 16, 9], ["very tall", 9, 16]];
const LAPSE = 30; // pictures
const SIDE_STEP = 16; // pixels
const MOST_SEED = 2 ** 48;

export const RESULTS = { face: "The face", photo: "The photo", pair: "Before and after" };

export function quick(form, parameters) {
  const { iterations, size, n, frames, output } = form.elements;
  const row = make("div", { className: "quick" });
  if (iterations) row.append(presets("Steps", iterations, qualities(parameters.iterations)));
  if (size && parameters.size.default) row.append(presets("Shape", size, shapes(parameters.size)));
  if (n) row.append(presets("Pictures", n, COUNTS.filter((count) => count <= parameters.n.maximum).map((count) => [count === parameters.n.default ? "" : String(count), String(count)])));
  if (frames && has("GET /jobs/{job_id}/timelapse.webp")) row.append(lapse(frames));
  if (output) row.append(presets("Result", output, [...output.options].map((option) => [option.value, RESULTS[option.value || parameters.output.default] ?? option.text])));
  return row;
}

// Steps: half of the usual number, or three times as many.
function qualities({ default: usual, maximum }) {
  if (!usual) return [];
  const steps = (share) => String(Math.min(maximum, Math.max(1, Math.round(usual * share))));
  return [[steps(0.5), "Draft", `Draft: ${steps(0.5)} steps`], ["", "Normal", `Normal: ${usual} steps`], [steps(3), "Long", `Long: ${steps(3)} steps`]];
}

// Sizes of about as many pixels as the usual one.
function shapes({ default: usual, pattern }) {
  const [width, height] = usual.split("x").map(Number);
  const allowed = new RegExp(pattern);
  const near = (side) => Math.round(side / SIDE_STEP) * SIDE_STEP;
  return RATIOS.map(([name, across, down]) => {
    const side = Math.sqrt((width * height) / (across * down));
    const size = `${near(across * side)}x${near(down * side)}`;
    const scale = 16 / Math.max(across, down);
    const icon = make("span", { className: "shape", style: { width: `${scale * across}px`, height: `${scale * down}px` } });
    return [size === usual ? "" : size, icon, `${name}: ${size}`];
  }).filter(([size]) => size === "" || allowed.test(size));
}

// Whether there is a time-lapse. How many pictures it has may be written too.
function lapse(input) {
  const toggle = button("Time-lapse", () => { input.value = Number(input.value) ? "" : Math.min(LAPSE, input.max); changed(input); }, { title: "Keep pictures of the way, to be played as an animation" });
  const show = () => { toggle.ariaPressed = String(Number(input.value) > 0); };
  input.addEventListener("input", show);
  show();
  return make("div", { className: "presets" }, toggle);
}

// A dice for the seed.
export function dice(input) {
  const throwIt = () => { input.value = Math.floor(Math.random() * MOST_SEED); changed(input); };
  return button("⚄", throwIt, { className: "dice", title: "Throw a seed", ariaLabel: "Throw a seed" });
}
