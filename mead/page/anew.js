// Afterwards: how strong an edit is, and what the result shows. Each choice makes the picture again, at once, and
// shows it in place. Such pictures are versions of the first one.

import { ask, UPLOAD } from "./api.js";
import { presets } from "./controls.js";
import { $, button, changed, make, say } from "./dom.js";
import { before } from "./faces.js";
import { insist } from "./insist.js";
import { choose, chosen, jobs, sent, take, wordsOf } from "./jobs.js";
import { load } from "./pictures.js";
import { RESULTS } from "./quick.js";
import { bindSlider } from "./ranges.js";
import { newKey } from "./send.js";
import { modelOf } from "./service.js";
import { firstOf, goesOn, isVersioned, spent } from "./versions.js";

const STEP = 0.05; // of the strength

const place = $("#anew");
const held = $("#held");
let shown = null; // the first version's id, its controls and what they say: {first, strength, output, wanted, making}

// Offers what can be chosen of a job.
export function anew(job) {
  place.hidden = !(job && isVersioned(job) && goesOn(job));
  if (place.hidden) { shown = null; return; }
  if (shown?.first !== firstOf(job)) build(job);
  if (!shown.making) write(job);
}

const strengthOf = (job) => Number(job.strength ?? modelOf(job).parameters.strength.default);
const outputOf = (job) => job.output ?? modelOf(job).parameters.output.default;

function build(job) {
  const { strength: { minimum, maximum, default: usual }, output: { enum: outputs } } = modelOf(job).parameters;
  const strength = make("input", { type: "number", id: "strength", min: minimum, max: maximum, step: "any" });
  const output = make("input", { type: "hidden" });
  const options = outputs.filter((one) => one !== "face" || job.face !== "all").map((one) => [one, RESULTS[one] ?? one]);
  const hold = button("Hold: before", null, { ariaPressed: "false", title: "While it is held down, the picture before the edit is shown" });
  const mine = (shown = { first: firstOf(job), strength, output, hold, making: false });
  place.replaceChildren(make("label", { htmlFor: "strength", textContent: "Strength" }), bindSlider(strength, minimum, maximum, usual, "Strength", STEP), hold, presets("Result", output, options));
  const moved = () => { if (!mine.writing && strength.value !== "" && strength.validity.valid) follow(mine); };
  for (const input of [strength, output]) input.addEventListener("input", moved);
  listen(hold, mine);
}

// Shows the values of a job in the controls.
function write(job) {
  shown.writing = true;
  if (document.activeElement !== shown.strength) shown.strength.value = strengthOf(job); // nobody is writing
  shown.output.value = outputOf(job);
  for (const input of [shown.strength, shown.output]) changed(input);
  shown.hold.hidden = outputOf(job) === "pair"; // it shows both
  shown.writing = false;
}

// Makes what the controls say, one after another, until they say nothing newer: the last one counts.
async function follow(mine) {
  if (mine.making) return;
  mine.making = true;
  place.ariaBusy = "true";
  say($("#done"), "");
  try {
    for (let made = null; made !== wish(mine);) {
      made = wish(mine);
      const job = await version(mine.first, ...made.split("/"));
      if (shown !== mine) return; // another picture by now
      choose(job.id);
    }
  } catch (error) {
    if (shown === mine) say($("#done"), error.message);
  } finally {
    mine.making = false;
    place.ariaBusy = null;
    if (shown === mine) anew(chosen());
  }
}

const wish = ({ strength, output }) => `${Number(strength.value)}/${output.value}`;

// The version of this strength and output: one that is there, else a new one.
async function version(first, strength, output) {
  const original = jobs.get(first);
  const is = (job) => firstOf(job) === first && job.status === "succeeded" && strengthOf(job) === Number(strength) && outputOf(job) === output;
  let job = [...jobs.values()].find(is);
  if (!job) {
    const model = modelOf(original ?? chosen());
    const body = new FormData();
    for (const [name, value] of Object.entries({ from: first, strength, output })) body.append(name, value);
    const headers = { "Idempotency-Key": newKey() };
    const { id } = await insist(() => ask(model.path, { method: "POST", body, headers, timeout: UPLOAD })).catch((error) => {
      if (error.status === 409) spent.add(first);
      throw error;
    });
    const pictures = sent.get(original?.group ?? first);
    if (pictures) sent.set(id, pictures);
    const compared = await before(model, pictures ?? {}, { output, face: original?.face }).catch(() => null);
    job = take({ ...(await ask(`jobs/${id}`)), before: compared });
  }
  await load(job);
  return job;
}

// Shows the picture before the edit while the button is held: the photo, else the face at strength 0.
function listen(hold, mine) {
  const show = async () => {
    hold.ariaPressed = "true";
    try {
      const { before: photo } = chosen();
      held.src = photo ?? (await version(mine.first, 0, mine.output.value)).address;
      held.alt = `Before: ${wordsOf(chosen())}`;
      held.hidden = hold.ariaPressed !== "true";
    } catch (error) {
      say($("#done"), error.message);
      anew(chosen());
    }
  };
  const end = () => { hold.ariaPressed = "false"; held.hidden = true; };
  hold.onpointerdown = show;
  for (const event of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) hold.addEventListener(event, end);
  hold.addEventListener("contextmenu", (event) => event.preventDefault());
  hold.addEventListener("keydown", (event) => { if ([" ", "Enter"].includes(event.key) && !event.repeat) show(); });
}
