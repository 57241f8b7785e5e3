// The draft: what is filled into the forms outlives a reload of its tab, but for pictures, until it is sent.

import { all, button } from "./dom.js";
import { put, valuesOf } from "./forms.js";
import { models } from "./service.js";
import { current, open } from "./tabs.js";

const NAME = "mead.draft";

const drafts = JSON.parse(sessionStorage.getItem(NAME) ?? "{}"); // by the model's path; and `tab`, the path of the one in sight

const write = () => sessionStorage.setItem(NAME, JSON.stringify(drafts));

export function start() {
  models.forEach(keep);
  const last = models.find(({ path }) => path === drafts.tab);
  if (last) open(last);
  addEventListener("tab", () => { drafts.tab = current().path; write(); });
}

export function forget(model) {
  delete drafts[model.path];
  write();
}

function keep(model) {
  const form = model.element;
  const clear = button("Clear", () => { put(model, {}); form.elements.prompt.focus(); }, { className: "clear", title: "Empty this form" });
  form.querySelector(".quick").append(clear);
  const show = () => { clear.hidden = !all("[name], [data-own]", form).some(({ value }) => value); };
  form.addEventListener("input", () => {
    drafts[model.path] = valuesOf(form);
    write();
    show();
  });
  if (drafts[model.path]) put(model, drafts[model.path]);
  show();
}
