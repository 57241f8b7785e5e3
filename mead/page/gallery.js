// The gallery: all jobs of this key, made on whichever device.

import { ask } from "./api.js";
import { $, all, make, save, say } from "./dom.js";
import { choose, chosen, jobs, onChange, STATES, take, wordsOf } from "./jobs.js";
import { askForKey, isLocked } from "./key.js";
import { load } from "./pictures.js";
import { has, queued, service } from "./service.js";
import { percent } from "./stage.js";
import { goes } from "./times.js";
import { firstOf, isPast } from "./versions.js";

const PAGE = 24; // jobs
const MOST_SEARCHED = 40; // pages that a search looks through

const list = $("#gallery ul");
const note = $("#gallery .note");
const cards = new Map(); // by the job's id
let cursor = null;
let more = false;

export async function start() {
  onChange((job) => {
    if (job) draw(job);
    for (const [id, card] of cards) {
      card.firstChild.ariaPressed = String(id === chosen()?.id);
      if (!job || firstOf(job) !== job.id) card.hidden = !matches(jobs.get(id));
    }
  });
  $("#search").addEventListener("input", search);
  $("#starred").addEventListener("click", (event) => {
    event.target.ariaPressed = String(!starred());
    if (starred()) keptOnes().catch(problem);
    search();
  });
  $("#starred").hidden = !has("PUT /jobs/{job_id}/keep");
  $("#more").addEventListener("click", () => page().catch(problem));
  $("#download-all").addEventListener("click", downloadAll);
  $("#unlock").addEventListener("click", () => askForKey("Your key shows your pictures."));
  addEventListener("key", first);
  if (!service.needs_key) say($("#made"), queued ? "Made here" : "Made in this window");
  await first();
}

async function first() {
  $("#unlock").hidden = !isLocked();
  show();
  if (!queued || isLocked()) return;
  cursor = null;
  await page().catch(problem);
}

const problem = (error) => say(note, error.message);

const starred = () => $("#starred").ariaPressed === "true";
const shown = () => all("li:not([hidden])", list);

// Those that are kept may be older than all pages that a search looks through.
async function keptOnes() {
  const { jobs: found } = await ask("jobs?kept=true&limit=100");
  for (const record of found) take(record);
}

// The next page of jobs, older ones.
async function page() {
  const { jobs: found, cursor: next } = await ask(`jobs?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
  cursor = next;
  more = Boolean(next);
  for (const record of found) take(record);
  say(note, "");
  show();
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    const job = jobs.get(target.dataset.id);
    if (job?.status === "succeeded") load(job);
  }
}, { rootMargin: "200px" });

function draw(job) {
  if (job.status === "cancelled" && !job.address) { // nothing came of it
    cards.get(job.id)?.remove();
    cards.delete(job.id);
    return show();
  }
  if (!cards.has(job.id)) add(job);
  const card = cards.get(job.id);
  const [frame, words, state] = card.firstChild.children;
  if (job.address && frame.firstChild.src !== job.address) Object.assign(frame.firstChild, { src: job.address, hidden: false });
  if (job.status === "succeeded" && !job.file) seen.observe(card);
  say(words, wordsOf(job));
  const done = job.status === "succeeded" && job.finished_at;
  const strength = Number(job.strength ?? 1) === 1 ? "" : `Strength ${Number(job.strength)} · `;
  say(state, strength + (done ? goes(job, service.job_ttl) : `${STATES[job.status]} ${percent(job)}`));
  card.firstChild.classList.toggle("starred", Boolean(job.kept));
  card.hidden = !matches(job);
  show();
}

// The newest first; of a group, as its seeds go up.
function add(job) {
  const card = make("li", { dataset: { id: job.id } }, make("button", { type: "button", onclick: () => {
    choose(job.id);
    $("#stage").scrollIntoView({ block: "nearest" });
  } }, make("span", { className: "frame" }, make("img", { alt: "", hidden: true })), make("span", { className: "words" }), make("span")));
  cards.set(job.id, card);
  const time = (one) => Math.floor(one.created / 1000);
  const before = [...list.children].find((other) => {
    const one = jobs.get(other.dataset.id);
    return time(one) < time(job) || (time(one) === time(job) && one.group === job.group && one.id > job.id);
  });
  list.insertBefore(card, before ?? null);
}

function matches(job) {
  if (isPast(job) && job !== chosen()) return false;
  const words = $("#search").value.trim().toLowerCase();
  return (!words || wordsOf(job).toLowerCase().includes(words)) && (!starred() || job.kept);
}

function show() {
  $("#gallery").hidden = !cards.size && !more && $("#unlock").hidden && $("#forget").hidden;
  $("#more").hidden = !more;
  $("#download-all").hidden = !cards.size;
}

// Older jobs are looked at until enough are found.
async function search() {
  for (const [id, card] of cards) card.hidden = !matches(jobs.get(id));
  const asked = $("#search").value;
  for (let pages = 0; asked && more && shown().length < PAGE && pages < MOST_SEARCHED && asked === $("#search").value; pages++) {
    try {
      await page();
    } catch (error) {
      return problem(error);
    }
  }
  say(note, asked && !shown().length ? "Nothing found." : "");
}

// All that is shown, one after another: a browser asks once whether it may.
async function downloadAll() {
  const made = shown().map(({ dataset }) => jobs.get(dataset.id)).filter(({ status }) => status === "succeeded");
  for (const [place, job] of made.entries()) {
    say(note, `Downloading ${place + 1} of ${made.length}.`);
    await load(job);
    if (job.file) save(job.file, job.file.name);
    await new Promise((done) => setTimeout(done, 200)); // browsers drop downloads that come too fast
  }
  say(note, made.length ? "Downloaded." : "There is nothing to download.");
}
