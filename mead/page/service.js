// What the page was told of the service: see mead/http/page.py.

import { $ } from "./dom.js";

export const service = JSON.parse($("#service").textContent);

export const has = (route) => service.routes.includes(route);

// app.py has no queue: there a job is one answer.
export const queued = has("GET /jobs/{job_id}/events");

export const models = service.models.map((model) => ({ ...model, path: model.route.slice(1), form: service.forms[model.type] }));

export const modelOf = (job) => models.find((model) => model.type === job.type);
