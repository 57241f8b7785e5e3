// The page: makes the forms and starts its parts. What it says of fields is what GET /models says.

import { ask } from "./api.js";
import { $, say } from "./dom.js";
import * as draft from "./draft.js";
import * as faces from "./faces.js";
import { connect } from "./following.js";
import { makeForm } from "./forms.js";
import * as gallery from "./gallery.js";
import { take } from "./jobs.js";
import { isLocked } from "./key.js";
import * as live from "./live.js";
import * as mask from "./mask.js";
import { watch } from "./notes.js";
import { send } from "./send.js";
import { has, models, queued, service } from "./service.js";
import * as settings from "./settings.js";
import * as stage from "./stage.js";
import { makeTabs } from "./tabs.js";

if (models.length) {
  makeTabs();
  for (const model of models) {
    makeForm(model, send);
    if (has(`POST ${model.route}/notes`)) watch(model);
    faces.watch(model);
    mask.watch(model);
    live.watch(model, send);
  }
  say($("#draws"), service.draws);
  draft.start();
  settings.start();
} else {
  say($("#panels"), "The weights cannot be used: nothing can be made. The server's log says why.");
}
stage.start();
connect();
gallery.start();

// The job that the address names, now and when it changes; with a key, once there is one.
const find = () => stage.restore(async (id) => take(await ask(`jobs/${id}`))).catch((error) => say($("#done"), error.message));
if (queued && !isLocked()) find();
for (const event of ["hashchange", "key"]) addEventListener(event, find);
