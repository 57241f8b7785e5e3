// The stage: the chosen job's picture as it grows, how far it is, and what can be said about it.

import { actions } from "./actions.js";
import { anew } from "./anew.js";
import { compare } from "./compare.js";
import { words } from "./controls.js";
import { $, make, say } from "./dom.js";
import { labelOf } from "./forms.js";
import { groupOf, STATES, chosen, choose, jobs, onChange, running, wordsOf } from "./jobs.js";
import { load, preview } from "./pictures.js";
import { report } from "./following.js";
import { RESULTS } from "./quick.js";
import { modelOf, queued, service } from "./service.js";
import { open } from "./tabs.js";
import { duration, goes } from "./times.js";

const PREVIEW_EVERY = 1000; // milliseconds
const TICK = 200; // milliseconds
const TITLE = document.title;

export function start() {
  onChange((job) => {
    const shown = chosen();
    if (!job) follow(shown);
    if (!job || job === shown) draw(shown);
    else if (shown && job.group && job.group === shown.group) drawGroup(shown);
    if (job?.status === "succeeded" && (job === shown || job.wanted)) load(job);
  });
  setInterval(() => {
    const job = chosen();
    if (!job || document.hidden) return;
    const due = isDue(job);
    if (queued) lookAt(job, due);
    if (running(job) && due) draw(job); // the seconds left
  }, TICK);
  draw(chosen());
}

// The tab in sight is that of the job's model, unless somebody writes into another form.
function follow(job) {
  report();
  const model = job && modelOf(job);
  if (model && !$("#panels").contains(document.activeElement)) open(model);
}

// A first preview is shown as soon as it is there.
const isDue = (job) => !job.address || performance.now() > (job.looked ?? 0) + PREVIEW_EVERY;

// Previews of the job on the stage, and of the others of its form: one at a time, the one longest not looked at.
function lookAt(job, due) {
  if (job.status === "processing" && due && !job.looking) look(job);
  const others = groupOf(job).filter((one) => one !== job && one.status === "processing");
  const [next] = others.filter(isDue).sort((one, other) => (one.looked ?? 0) - (other.looked ?? 0));
  if (next && !others.some(({ looking }) => looking)) look(next);
}

async function look(job) {
  Object.assign(job, { looked: performance.now(), looking: true });
  await preview(job);
  job.looking = false;
}

// The part that is done, 0 to 1; null if it is not known.
const share = (job) => (job.status === "processing" && job.total_steps ? job.steps / job.total_steps : null);

export const percent = (job) => (share(job) === null ? "" : `${Math.floor(100 * share(job))}%`);

// How a job is, in a few words.
export function stateOf(job) {
  if (job.status === "queued") return STATES.queued + (job.rank ? `: ${job.rank} before this one` : ": next in line");
  if (job.status === "failed" || job.status === "lost") return `${STATES[job.status]}: ${job.message ?? job.error ?? "nobody knows why"}`;
  return STATES[job.status];
}

function draw(job) {
  const part = job && share(job);
  document.title = job && running(job) ? `${percent(job) || "..."} · ${TITLE}` : TITLE;
  drawPicture(job);
  drawGroup(job);
  const bar = $("#bar");
  bar.hidden = !job || !running(job);
  if (part === null || !job) bar.removeAttribute("value");
  else bar.value = part;
  say($("#state"), job ? stateOf(job) : "");
  say($("#steps"), job ? stepsOf(job) : "");
  say($("#caption"), job ? wordsOf(job) : "");
  say($("#notes"), (job?.notes ?? []).join("\n"));
  say($("#facts"), job ? factsOf(job) : "");
  anew(job);
  actions(job);
  if (job?.status === "succeeded" && !job.file) load(job);
}

function drawPicture(job) {
  const picture = $("#picture");
  const pair = job && !job.playing && compare(job, $("#compare"));
  const address = job?.playing ?? job?.address;
  if (address && picture.src !== address) picture.src = address;
  Object.assign(picture, { alt: job ? `${running(job) ? "So far: " : ""}${wordsOf(job)}` : "", hidden: !job?.address || pair });
  $("#compare").hidden = !pair;
  $("#empty").hidden = Boolean(job?.address);
  if (job) say($("#empty"), running(job) || job.status === "succeeded" ? "No picture yet." : "No picture.");
}

// All pictures of a form that asked for several.
function drawGroup(job) {
  const group = job ? groupOf(job) : [];
  const strip = $("#group");
  strip.hidden = group.length < 2;
  if (strip.hidden) return strip.replaceChildren();
  const ids = group.map(({ id }) => id).join();
  if (strip.dataset.ids !== ids || !strip.children.length) {
    strip.dataset.ids = ids;
    strip.replaceChildren(...group.map((one) => make("button", { type: "button", dataset: { id: one.id }, onclick: () => choose(one.id) })));
  }
  group.forEach((one, place) => {
    const card = strip.children[place];
    one.wanted = true;
    if (one.status === "succeeded") load(one);
    card.ariaPressed = String(one === job);
    card.ariaLabel = `Picture ${place + 1} of ${group.length}: ${STATES[one.status]}`;
    card.style.setProperty("--done", share(one) ?? 0);
    if (one.address) {
      if (card.firstChild?.src !== one.address) card.replaceChildren(make("img", { src: one.address, alt: "" }));
    } else say(card, percent(one) || STATES[one.status]);
  });
}

// How far a job is, or how long it took.
function stepsOf(job) {
  if (job.status === "succeeded") return tookOf(job);
  const said = [];
  if (job.total_steps) said.push(`step ${job.steps} of ${job.total_steps}`);
  const left = secondsLeft(job);
  if (left !== null) said.push(`about ${duration(left)} left`);
  return said.join(", ");
}

function tookOf(job) {
  if (!job.started_at || !job.finished_at) return "";
  const took = `in ${duration((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)}`;
  const { patience, iterations } = modelOf(job)?.parameters ?? {};
  const early = patience && job.total_steps < (job.iterations ?? iterations.default);
  return early ? `${took}, ended early after ${job.total_steps} steps` : took;
}

// As the service says, else as fast as this job has been so far.
function secondsLeft(job) {
  if (!running(job)) return null;
  if (typeof job.eta === "number") return job.eta;
  if (!job.steps || !job.total_steps) return null;
  job.pace ??= { at: performance.now(), steps: job.steps };
  const steps = job.steps - job.pace.steps;
  return steps < 2 ? null : ((performance.now() - job.pace.at) / 1000 / steps) * (job.total_steps - job.steps);
}

// The parameters that are not the usual ones, and when the picture goes.
function factsOf(job) {
  const model = modelOf(job);
  const fields = model?.parameters ?? {};
  const said = (name) => (fields[name].enum ? RESULTS[job[name]] ?? words(job[name]) : job[name]);
  const told = Object.keys(fields).filter((name) => name !== "prompt" && name !== "n" && job[name] !== undefined && String(job[name]) !== String(fields[name].default));
  const facts = [...told.map((name) => `${labelOf(model, name)}: ${said(name)}`), ...(job.files ?? []).map((name) => labelOf(model, name))];
  if (queued && job.finished_at && job.status === "succeeded") facts.push(goes(job, service.job_ttl));
  return facts.join(" · ");
}

// The job that the address names, if this browser may see it.
export async function restore(find) {
  const id = location.hash.slice(1);
  if (!/^[0-9a-f]{32}$/.test(id)) return;
  if (!jobs.has(id)) await find(id);
  if (jobs.has(id)) choose(id);
}
