// The page for operators: what waits, what runs, where and how fast, and what has failed.

import { ask } from "./api.js";
import { $, all, button, make, say } from "./dom.js";
import { wordsOf } from "./jobs.js";
import { has, modelOf } from "./service.js";
import { ago, duration } from "./times.js";

const EVERY = 2000; // milliseconds
const LISTED = 50; // jobs of a kind
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", th: "columnheader", td: "cell" };

const megabytes = (bytes) => `${Math.round(bytes / 2 ** 20).toLocaleString("en")} MB`;
const nameOf = (type) => modelOf({ type })?.name ?? type;

// Fills a table, unless it says the same already: what has the focus keeps it.
function table(place, columns, rows, nothing) {
  const content = JSON.stringify(rows.map((row) => row.map((cell) => (cell instanceof Node ? cell.href ?? "" : cell))));
  if (place.dataset.content === content) return;
  place.dataset.content = content;
  if (!rows.length) return place.replaceChildren(make("table", {}, make("caption", { textContent: nothing })));
  const kind = (at) => (typeof rows[0][at] === "number" ? "number" : "");
  const head = make("tr", {}, ...columns.map((text, at) => make("th", { scope: "col", textContent: text, className: kind(at) })));
  const line = (row) => make("tr", {}, ...row.map((cell, at) => make("td", { className: kind(at), dataset: { of: columns[at] } }, typeof cell === "number" ? cell.toLocaleString("en") : cell)));
  place.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map(line))));
  for (const one of all("table, thead, tbody, tr, th, td", place)) one.role = ROLES[one.localName]; // also where a style shows no table
}

async function look() {
  const [{ queues, workers }, ...lists] = await Promise.all([
    ask("queues", { timeout: 5000 }),
    ...["queued", "processing", "failed"].map((status) => ask(`jobs?status=${status}&limit=${LISTED}`, { timeout: 5000 })),
  ]);
  const [waiting, running, failed] = lists.map(({ jobs }) => jobs);
  table($("#of-queues"), ["Queue", "Model", "Waiting", "Running", "Room for", "Steps a second"],
    queues.map((queue) => [queue.name, nameOf(queue.type), queue.waiting, queue.running, queue.capacity, queue.steps_per_second]), "There are no queues.");
  table($("#of-servers"), ["Server", "Queues", "Weights", "Running", "Memory", "Up for", "Last seen"],
    workers.map((worker) => [worker.name, worker.queues.join(", "), worker.weights ?? "", worker.running, megabytes(worker.memory_bytes), duration((Date.now() - Date.parse(worker.started_at)) / 1000), ago(worker.seen_at)]),
    "No inference server is running. Start one: python inference_server.py");
  table($("#of-unfinished"), ["Job", "Model", "Prompt", "State", "Where", "Since"],
    [...running, ...waiting].map((job) => [link(job), nameOf(job.type), wordsOf(job), stateOf(job), job.worker ?? "", ago(job.started_at ?? job.created_at)]), "Nothing waits or runs.");
  table($("#of-failed"), ["Job", "Model", "Prompt", "Why", "When", "What to do"],
    failed.map((job) => [link(job), nameOf(job.type), wordsOf(job), job.error ?? "", ago(job.finished_at ?? job.created_at), !job.error_field && has("POST /jobs/{job_id}/retry") ? button("Again", () => again(job)) : ""]), "Nothing has failed.");
}

const link = (job) => make("a", { href: `./#${job.id}`, textContent: short(job) });

const short = ({ id }) => `${id.slice(0, 6)}…${id.slice(-2)}`; // the last two digits count the jobs of a form

const stateOf = (job) => (job.status === "queued" ? `waiting, ${job.rank} before it` : `step ${job.steps}${job.total_steps ? ` of ${job.total_steps}` : ""}`);

async function again(job) {
  try {
    await ask(`jobs/${job.id}/retry`, { method: "POST" });
    say($("#done"), `${short(job)} waits again.`);
    await look();
  } catch (error) {
    say($("#done"), error.message);
  }
}

async function run() {
  try {
    if (!document.hidden) await look();
    $("#outage").hidden = true;
  } catch (error) {
    say($("#outage"), error.status ? `The service cannot say: ${error.message}` : "The server does not answer. This page goes on by itself when it is back.");
    $("#outage").hidden = false;
  }
  setTimeout(run, EVERY);
}

say($("#whose"), "Jobs are those of your key; without API keys, everybody's. The queues and servers are all.");
run();
